// Package audit says where the layers of a host do not agree: its truth, the fleet's store, the cache, the kernel's maps, routes,
// neighbours, devices, namespaces and programs.
//
// What differs in its own matters each part of the daemon knows itself: it is a Source. An Auditor asks all of them, keeps what is
// only on its way, and gives what is left its likely cause and its remedy. What it reports can be repaired later, if it has not
// changed since: a Difference carries a fingerprint of the state that it was seen in.
package audit
