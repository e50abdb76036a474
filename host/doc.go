// Package host keeps what ip6d needs of this host's network: it is the netlink agent.
//
//   - Ports: the host-side devices of machines. It makes a veth pair for a machine's namespace, or takes a
//     device that exists, and takes either away again.
//   - Routes: to each other host's /48 through the underlay, and to this host's own through ip6d0.
//   - Next hops: the kernel finds and watches the neighbours on the underlay; what it knows goes to the
//     datapath, so that a packet needs no lookup on its way.
//   - The mesh, where the underlay is WireGuard: its device, and each other host as a peer; see WireGuard.
//   - ip6d0: a veth pair for what takes the host's own stack; see Stack.
//
// What should be there is compared with what is: at start, at each change that the kernel tells of, and, as a
// change may be missed, now and then without any. So what is deleted by hand is soon back. Only what ip6d made
// is ever deleted: routes and neighbours carry its protocol number, ports a label.
//
// An Agent belongs to the network namespace that it was made in, and may be used from any goroutine.
package host
