// Soak lets many clients create, move and destroy machines in a random way, on three hosts with a store of three members, while
// members of the store and hosts are killed, stopped and cut off, and while daemons die at failpoints around every write.
// It checks what must hold (docs/ARCHITECTURE.md) at every moment and at the end, and the history of each machine for
// linearizability.
//
// # What is real
//
// Members are etcd servers, and daemons are processes, each in a network namespace of its own behind one switch. A daemon has a
// real hardware map, real databases on the disk, a real client of etcd and the real APIs: see the package daemon. The kernel's
// maps and the devices are held by this process instead, with the rules of the real ones: see the package kernel. So every write
// of every host is seen in the order in which it happened, and a restart takes milliseconds; the real kernel is the business of
// the tests in integration/.
//
// An operator drains hosts and hands their blocks over, and loses hosts: one is cut off, declared dead, and some of its machines
// are claimed; then it comes back, must be fenced, and is revived.
//
// # What the seed decides
//
// All that is drawn: the life of each machine, what meddlers do to machines and with which pauses, when which fault befalls whom
// and for how long, and in each life of a daemon which failpoint ends it when it is passed for the nth time. How processes
// and packets interleave is not decided by it, so a seed makes a violation likelier to come again, and not certain.
//
// # Failpoints
//
// The product's source has marks for gofail ("// gofail: var NAME struct{}"), which are comments. Build makes code of them, and of
// bbolt's own, for the daemon of the soak and for nothing else.
//
// SOAK_RACE=1 builds the daemon with the race detector; a race that it finds is a violation. SOAK_KEEP=1 keeps the directory of
// a soak: calls.log is what was asked and answered, hostN.log what the daemons said.
package main
