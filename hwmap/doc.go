// Package hwmap is the hardware map: which host each machine is on, who may say so, and how that changes.
//
// Map is the one type that changes it, on behalf of the orchestrator. It keeps three things apart:
//
//   - the truth: what this host knows of its own machines, in a Store on the local disk, and nowhere else;
//   - the fleet's map: hosts, blocks, and machines that have ever moved, in a Store that all hosts share;
//   - the kernel's maps, which follow from these two and are written through Datapath.
//
// An epoch counts the owners of a record. It grows by one at each change of owner; a lower epoch always loses.
package hwmap
