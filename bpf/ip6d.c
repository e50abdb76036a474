//go:build ignore

/* The translation datapath. docs/ARCHITECTURE.md, "A packet's way", is the text to these programs.
 *
 *	from_machine	ingress of a machine's port
 *	from_underlay	ingress of the underlay's device
 *	from_stack	ingress of ip6d0's peer: what the host's own stack sends into ip6d0
 *	from_elsewhere	egress of ip6d0: only refuses what the host forwards there for others
 *
 * Each of the first three reads the packet, refuses by name what it does not carry, and leaves the
 * rest to carry(). */

#include "carry.h"

#define LINK_LOCAL	   0xfe80000000000000 /* fe80::/64 (RFC 4291 section 2.5.6) */
#define GATEWAY_SOLICITED  0x00000001ff000001 /* low half of ff02::1:ff00:1 */
#define LINK_LOCAL_SCOPE   0xff02000000000000
#define ROUTER_SOLICIT	   133
#define NEIGHBOUR_SOLICIT  135
#define NEIGHBOUR_ADVERT   136
#define DISCOVERY_HOPLIMIT 255 /* RFC 4861 section 7.1 */

static __always_inline bool same(struct address a, struct address b)
{
	return a.high == b.high && a.low == b.low;
}

static __always_inline bool is_multicast(struct address a)
{
	return a.high >> 56 == 0xff;
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

/* is_discovery tells neighbour discovery with the gateway. A solicitation's source is the
 * link-local address, or the one that the packet to be sent has (RFC 4861 section 7.2.2): the
 * stable one. Extension headers never occur there, so none are looked behind. */
static __always_inline bool is_discovery(struct __sk_buff *skb, const struct packet *p,
					 const struct port *port)
{
	__u8 type;

	if (p->next_header != PROTOCOL_ICMPV6 || p->hop_limit != DISCOVERY_HOPLIMIT)
		return false;
	if (p->source.high != LINK_LOCAL && !same(p->source, port->stable))
		return false;
	if (p->destination.high == LINK_LOCAL) { /* the gateway */
		if (p->destination.low != 1)
			return false;
	} else if (p->destination.high != LINK_LOCAL_SCOPE ||
		   (p->destination.low != 2 && p->destination.low != GATEWAY_SOLICITED)) {
		return false;
	}
	if (L3 + sizeof(struct ipv6hdr) >= p->end ||
	    bpf_skb_load_bytes(skb, L3 + sizeof(struct ipv6hdr), &type, sizeof(type)))
		return false;
	return type == ROUTER_SOLICIT || type == NEIGHBOUR_SOLICIT || type == NEIGHBOUR_ADVERT;
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

SEC("tcx/ingress")
int from_machine(struct __sk_buff *skb)
{
	struct packet p = {};
	enum drop_reason refused;
	struct port *port;
	__u32 ifindex = skb->ifindex;

	if (skb->vlan_present)
		return drop(DROP_VLAN_TAGGED);
	refused = ether_type(skb->protocol);
	if (refused)
		return drop(refused);
	refused = read_packet(skb, &p);
	if (refused)
		return drop(refused);
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return drop(DROP_UNKNOWN_PORT);

	if (is_discovery(skb, &p, port))
		return NEXT;
	if (is_multicast(p.destination))
		return drop(DROP_MULTICAST);
	refused = read_sent(skb, &p, port->stable);
	if (refused)
		return drop(refused);
	return carry(skb, &p, FROM_MACHINE);
}

SEC("tcx/ingress")
int from_underlay(struct __sk_buff *skb)
{
	struct packet p = {};
	enum drop_reason refused;

	/* a tagged frame is for the VLAN's device, and one to another MAC for nobody here */
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || skb->vlan_present ||
	    skb->pkt_type == PACKET_OTHERHOST)
		return NEXT;
	if (read_packet(skb, &p))
		return NEXT; /* the stack drops it */

	if (prefix(p.source) == own.stable)
		return drop(DROP_STABLE_SOURCE);
	if (prefix(p.destination) == own.stable)
		return drop(DROP_STABLE_DESTINATION);
	if (!is_ours(p.destination))
		return NEXT;
	if (!read_routing(p.destination, &p.to))
		return drop(DROP_INVALID_DESTINATION);
	if (is_control(p.destination))
		return NEXT;

	p.outside = prefix(p.source) != own.routing || is_control(p.source);
	if (prefix(p.source) == own.routing) {
		if (!read_routing(p.source, &p.from))
			return drop(DROP_INVALID_SOURCE);
		if (p.from.host == own.host)
			return drop(DROP_OWN_SOURCE);
	}
	refused = read_received(skb, &p);
	if (refused)
		return drop(refused);
	return carry(skb, &p, FROM_UNDERLAY);
}

SEC("tcx/ingress")
int from_stack(struct __sk_buff *skb)
{
	struct address endpoint =
		stable_address((struct numbers){.machine = own.host, .cell = own.cell});
	struct packet p = {};
	enum drop_reason refused;

	refused = ether_type(skb->protocol);
	if (refused)
		return drop(refused);
	refused = read_packet(skb, &p);
	if (refused)
		return drop(refused);
	if (is_multicast(p.destination))
		return drop(DROP_MULTICAST);

	if (prefix(p.destination) == own.stable)
		refused = read_sent(skb, &p, endpoint);
	else
		refused = read_answer(skb, &p, endpoint);
	if (refused)
		return drop(refused);
	return carry(skb, &p, FROM_STACK);
}

/* Whoever could have this host forward a packet into ip6d0 could speak as its endpoint, and so to
 * every network. What this host sends itself came in through no device. */
SEC("tcx/egress")
int from_elsewhere(struct __sk_buff *skb)
{
	return skb->ingress_ifindex ? drop(DROP_FORWARDED) : NEXT;
}

char _license[] SEC("license") = "GPL";
