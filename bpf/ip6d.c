//go:build ignore

/* The translation datapath. docs/DATAPATH.md is the text to these programs.
 *
 *	from_machine		ingress of a machine's port
 *	from_underlay		ingress of the underlay's device
 *	from_underlay_l3	the same, of a device without a link layer
 *	from_stack		ingress of ip6d0's peer: what the host's own stack sends into ip6d0
 *	from_elsewhere		egress of ip6d0: refuses what the host forwards there for others
 *	to_underlay		egress of the underlay's device: refuses what the host forwards there
 *				for others in its own name
 *	to_underlay_l3		the same, of a device without a link layer
 *
 *	read_jiffies		attached nowhere
 *
 * All but the guards and the last read the packet, refuse by name what they do not carry, and leave
 * the rest to carry(). */

#include "discovery.h"

static __always_inline bool is_multicast(struct address a)
{
	return a.high >> 56 == 0xff;
}

static __always_inline bool is_link_local(struct address a)
{
	return a.high >> 54 == 0xfe80 >> 6; /* fe80::/10 (RFC 4291 section 2.4) */
}

static __always_inline enum drop_reason ether_type(__u32 protocol)
{
	switch (bpf_ntohs(protocol)) {
	case ETH_P_IPV6:
		return DROP_NONE;
	case ETH_P_IP:
		return DROP_IPV4;
	case ETH_P_ARP:
		return DROP_ARP;
	case ETH_P_8021Q:
	case ETH_P_8021AD:
		return DROP_VLAN_TAGGED;
	}
	return DROP_ETHER_TYPE;
}

/* is_fenced tells that this host was declared dead: another may have its machines by now. */
static __always_inline bool is_fenced(void)
{
	__u32 only = 0;
	struct fence *f = bpf_map_lookup_elem(&fence, &only);

	return f && f->closed;
}

/* is_dead tells a host that was declared dead: what it sends, it sends as a machine that another
 * host may have by now. */
static __always_inline bool is_dead(__u32 host)
{
	__u32 only = 0;
	struct fence *f = bpf_map_lookup_elem(&fence, &only);

	return f && f->dead && bpf_map_lookup_elem(&dead, &host);
}

/* read_sent checks what sender, a stable address of this host, sends: to where, and what. */
static __always_inline enum drop_reason read_sent(struct __sk_buff *skb, struct packet *p,
						  struct address sender)
{
	enum drop_reason refused;

	if (!same(p->source, sender))
		return DROP_FOREIGN_SOURCE;
	read_stable(sender, &p->from);
	p->from.host = own.host;
	p->outside = false;

	if (prefix(p->destination) == own.routing)
		return DROP_ROUTING_DESTINATION;
	if (prefix(p->destination) != own.stable)
		return DROP_NO_EGRESS;
	if (!read_stable(p->destination, &p->to))
		return DROP_INVALID_DESTINATION;
	if (p->from.network != p->to.network && p->from.network != 0 && p->to.network != 0)
		return DROP_OTHER_NETWORK;

	refused = read_upper(skb, p);
	if (refused)
		return refused;
	return is_discovery_type(p->icmpv6) ? DROP_NEIGHBOUR_DISCOVERY : DROP_NONE;
}

/* is_about tells whether the packet is an ICMPv6 error about one that its destination sent: the
 * only thing that a router, or a host's own stack, has to tell a machine. */
static __always_inline bool is_about(struct __sk_buff *skb, const struct packet *p,
				     const struct numbers *to)
{
	struct address pair[2];
	struct numbers sender;

	if (!is_error(p) || p->fragment || !read_embedded(skb, p, pair))
		return false;
	return prefix(pair[0]) == own.routing && !is_control(pair[0]) &&
	       read_routing(pair[0], &sender) && sender.network == to->network &&
	       sender.machine == to->machine && sender.cell == to->cell;
}

/* read_received checks what came for a routing address of this host, once p->from and p->outside
 * are known. */
static __always_inline enum drop_reason read_received(struct __sk_buff *skb, struct packet *p)
{
	enum drop_reason refused = read_upper(skb, p);

	if (refused)
		return refused;
	if (is_discovery_type(p->icmpv6))
		return DROP_NEIGHBOUR_DISCOVERY;
	if (p->outside)
		return is_about(skb, p, &p->to) ? DROP_NONE : DROP_OUTSIDE_SOURCE;
	if (p->from.network != p->to.network && p->from.network != 0 && p->to.network != 0)
		return DROP_OTHER_NETWORK;
	return DROP_NONE;
}

/* is_ours tells whether a is in this host's /48. */
static __always_inline bool is_ours(struct address a)
{
	return a.high >> 16 == ((__u64)own.routing << 32 | own.host);
}

/* read_answer checks what this host's stack sends to a routing address of this host: its ICMPv6
 * errors, on packets that to_stack() gave it. Its source is this host's endpoint or control
 * address, or one that the underlay gave it; a machine's would be forged, as a machine's packets
 * never come this way. */
static __always_inline enum drop_reason read_answer(struct __sk_buff *skb, struct packet *p,
						    struct address endpoint)
{
	if (!is_ours(p->destination))
		return DROP_STACK_DESTINATION;
	if (!read_routing(p->destination, &p->to))
		return DROP_INVALID_DESTINATION;
	if (is_control(p->destination))
		return DROP_CONTROL_DESTINATION;

	p->outside = !same(p->source, endpoint);
	if (!p->outside)
		read_stable(endpoint, &p->from);
	else if (prefix(p->source) == own.stable)
		return DROP_FOREIGN_SOURCE;
	else if (prefix(p->source) == own.routing && !(is_ours(p->source) && is_control(p->source)))
		return DROP_FOREIGN_SOURCE;
	p->from.host = own.host;
	return read_received(skb, p);
}

static __always_inline struct port *find_port(__u32 ifindex)
{
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < own.port_probes; i++) {
		__u32 place = (ifindex + i) & (own.port_places - 1);
		struct port *port = bpf_map_lookup_elem(&ports, &place);

		if (port && port->ifindex == ifindex)
			return port;
	}
	return NULL;
}

SEC("tcx/ingress")
int from_machine(struct __sk_buff *skb)
{
	const enum way way = FROM_MACHINE;
	struct packet p = {};
	enum drop_reason refused;
	struct port *port;

	if (skb->vlan_present)
		return drop(skb, &p, DROP_VLAN_TAGGED, way);
	refused = ether_type(skb->protocol);
	if (refused)
		return drop(skb, &p, refused, way);
	refused = read_packet(skb, &p, way);
	if (refused)
		return drop(skb, &p, refused, way);
	if (is_fenced())
		return drop(skb, &p, DROP_FENCED, way);
	port = find_port(skb->ifindex);
	if (!port)
		return drop(skb, &p, DROP_UNKNOWN_PORT, way);
	/* also of what is refused: that it sends is what is waited for, not what */
	if (port->awaited && same(p.source, port->stable)) {
		read_stable(port->stable, &p.from);
		tell_sent(skb, &p, way);
	}

	/* in this order, as one comparison tells that a packet is none of these */
	if (!same(p.source, port->stable) || prefix(p.destination) != own.stable) {
		if (asks_for_gateway(skb, &p, port->stable))
			return answer(skb, &p, way);
		if (is_multicast(p.destination))
			return drop(skb, &p, DROP_MULTICAST, way);
		if (is_link_local(p.source) || is_link_local(p.destination))
			return drop(skb, &p, DROP_LINK_LOCAL, way);
	}
	refused = read_sent(skb, &p, port->stable);
	if (refused)
		return drop(skb, &p, refused, way);
	return carry(skb, &p, way);
}

/* is_forged tells a neighbour on the underlay's link that says it is another host than it is. */
static __always_inline bool is_forged(struct __sk_buff *skb, __u32 host)
{
	__u32 *slot = bpf_map_lookup_elem(&slots, &host);
	struct next_hop *hop = slot ? bpf_map_lookup_elem(&hosts, slot) : NULL;
	struct ethhdr *eth = (void *)(long)skb->data;

	if (!hop || hop->kind != HOP_NEIGHBOUR || bpf_jiffies64() >= hop->trusted_until)
		return false;
	return (void *)(eth + 1) <= (void *)(long)skb->data_end &&
	       __builtin_memcmp(eth->h_source, hop->mac, ETH_ALEN) != 0;
}

static __always_inline int receive(struct __sk_buff *skb, enum way way)
{
	struct packet p = {};
	enum drop_reason refused;

	/* what has a VLAN's tag is for the VLAN's device; VLAN 0 is none, only a priority (IEEE
	 * 802.1Q). What is to another MAC is for nobody here. */
	if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
	    (skb->vlan_present && skb->vlan_tci & VLAN_ID) || skb->pkt_type == PACKET_OTHERHOST)
		return NEXT;
	if (read_packet(skb, &p, way))
		return NEXT; /* the stack drops it */

	if (prefix(p.source) == own.stable)
		return drop(skb, &p, DROP_STABLE_SOURCE, way);
	if (prefix(p.destination) == own.stable)
		return drop(skb, &p, DROP_STABLE_DESTINATION, way);
	if (!is_ours(p.destination))
		return NEXT;
	if (!read_routing(p.destination, &p.to))
		return drop(skb, &p, DROP_INVALID_DESTINATION, way);
	if (is_control(p.destination))
		return NEXT;
	if (is_fenced())
		return drop(skb, &p, DROP_FENCED, way);

	p.outside = prefix(p.source) != own.routing || is_control(p.source);
	if (prefix(p.source) == own.routing) {
		if (!read_routing(p.source, &p.from))
			return drop(skb, &p, DROP_INVALID_SOURCE, way);
		if (p.from.host == own.host)
			return drop(skb, &p, DROP_OWN_SOURCE, way);
		if (is_dead(p.from.host))
			return drop(skb, &p, DROP_DEAD_HOST, way);
		if (way == FROM_UNDERLAY && own.verify_mac && is_forged(skb, p.from.host))
			return drop(skb, &p, DROP_FORGED_HOST, way);
	}
	refused = read_received(skb, &p);
	if (refused)
		return drop(skb, &p, refused, way);
	return carry(skb, &p, way);
}

SEC("tcx/ingress")
int from_underlay(struct __sk_buff *skb)
{
	return receive(skb, FROM_UNDERLAY);
}

SEC("tcx/ingress")
int from_underlay_l3(struct __sk_buff *skb)
{
	return receive(skb, FROM_UNDERLAY_L3);
}

SEC("tcx/ingress")
int from_stack(struct __sk_buff *skb)
{
	struct address endpoint =
		stable_address((struct numbers){.machine = own.host, .cell = own.cell});
	const enum way way = FROM_STACK;
	struct packet p = {};
	enum drop_reason refused;

	refused = ether_type(skb->protocol);
	if (refused)
		return drop(skb, &p, refused, way);
	refused = read_packet(skb, &p, way);
	if (refused)
		return drop(skb, &p, refused, way);
	if (is_fenced())
		return drop(skb, &p, DROP_FENCED, way);
	if (is_multicast(p.destination))
		return drop(skb, &p, DROP_MULTICAST, way);

	if (prefix(p.destination) == own.stable)
		refused = read_sent(skb, &p, endpoint);
	else
		refused = read_answer(skb, &p, endpoint);
	if (refused)
		return drop(skb, &p, refused, way);
	return carry(skb, &p, way);
}

/* Whoever could have this host forward a packet into ip6d0 could speak as its endpoint, and so to
 * every network. What this host sends itself came in through no device. */
SEC("tcx/egress")
int from_elsewhere(struct __sk_buff *skb)
{
	struct packet p = {};

	if (!skb->ingress_ifindex)
		return NEXT;
	read_packet(skb, &p, FROM_ELSEWHERE); /* for the event */
	return drop(skb, &p, DROP_FORWARDED, FROM_ELSEWHERE);
}

/* Whoever could have this host forward a packet to the underlay under an address of its /48 could
 * speak as any machine. */
static __always_inline int send(struct __sk_buff *skb, enum way way)
{
	struct packet p = {};

	if (skb->tc_index == CARRIED || !skb->ingress_ifindex)
		return NEXT;
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || read_packet(skb, &p, way))
		return NEXT;
	if (!is_ours(p.source) && prefix(p.source) != own.stable)
		return NEXT;
	return drop(skb, &p, DROP_FORWARDED, way);
}

SEC("tcx/egress")
int to_underlay(struct __sk_buff *skb)
{
	return send(skb, FROM_ELSEWHERE);
}

SEC("tcx/egress")
int to_underlay_l3(struct __sk_buff *skb)
{
	return send(skb, FROM_ELSEWHERE_L3);
}

/* read_jiffies tells package nat what time it is on the clock that trusted_until is of. */
SEC("syscall")
int read_jiffies(__u64 *jiffies)
{
	*jiffies = bpf_jiffies64();
	return 0;
}

char _license[] SEC("license") = "GPL";
