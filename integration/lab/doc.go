// Package lab makes a throwaway fleet on one computer: hosts and machines are network namespaces, each host runs its own
// `ip6d serve`, and one etcd is the fleet's store. `ip6d lab` shows it to people, the end-to-end tests build on it.
//
//	  underlay             a switch (bridge), and etcd on it: fd00:6d::ffff
//	  |       |       |
//	 eth0    eth0    eth0  fd00:6d::1, ::2, ::3
//	host1   host2   host3  each with its own ip6d serve
//	 |  |    |  |    |  |  ports
//	red1|   red2|   red3|  network 42
//	  blue1   blue2   blue3  network 77
//
// All of a lab is in /run/NAME (state, sockets, logs, a BPF file system whose end is the end of every pin), in namespaces
// called NAME-..., and in processes that have its mark. So Down finds it without knowing what Up did, or how far it came.
//
// # Moving a machine
//
// A red machine is made to be moved as a hypervisor would: the target gets a second port, and at switchover traffic goes
// over to it while the machine's sockets know nothing. For that, its stable address is on its loopback device, and its
// default route leads to one of its ports. A guard (package guard) on each port drops and counts what comes to the one that
// is not the machine's. See Migration.
package lab
