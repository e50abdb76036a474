/* Where a packet goes, and how it gets there. */
#pragma once

#include "event.h"

#define BLOCK_SHIFT 8 /* 256 machines in a block */
#define BLOCK_SIZE  (1 << BLOCK_SHIFT)

/* skb->tc_index of what the datapath sends to the underlay, for to_underlay to know it by. Only
 * this computer's own programs can set it, and it is 0 on every packet that comes in. */
#define CARRIED 0x6936

/* Every IPv6 link carries a packet of this size (RFC 8200 section 5), so no MTU need be asked. */
#define MIN_MTU 1280

static __always_inline bool is_from_underlay(enum way way)
{
	return way == FROM_UNDERLAY || way == FROM_UNDERLAY_L3;
}

/* check_segments is check_mtu for a jumbogram of the kernel's own making (BIG TCP). The header that
 * makes it one is in no segment of it, but bpf_check_mtu would count it. */
static __noinline long check_segments(struct __sk_buff *skb, const struct packet *p, __u32 ifindex)
{
	__u32 mtu = 0;
	long size = bpf_check_mtu(skb, ifindex, &mtu, 0, 0); /* only asks for the MTU */
	__u8 offset = 0xf0;

	bpf_skb_load_bytes(skb, p->l3 + sizeof(struct ipv6hdr) + JUMBO_OPTION + TCP_OFFSET, &offset,
			   sizeof(offset));
	if (size == BPF_MTU_CHK_RET_SUCCESS &&
	    sizeof(struct ipv6hdr) + (offset >> 4) * 4 + skb->gso_size > mtu)
		return BPF_MTU_CHK_RET_SEGS_TOOBIG;
	return size;
}

/* check_mtu tells whether the packet, or each segment that it will be cut into, fits a device: as
 * bpf_check_mtu does. Both lengths are without the link layer's header: this device's may have
 * another than that one's. */
static __always_inline long check_mtu(struct __sk_buff *skb, const struct packet *p, __u32 ifindex)
{
	__u32 length = skb->len - p->l3;

	if (length <= MIN_MTU)
		return BPF_MTU_CHK_RET_SUCCESS;
	if (!skb->gso_size)
		return bpf_check_mtu(skb, ifindex, &length, 0, 0);
	if (p->jumbogram)
		return check_segments(skb, p, ifindex);
	length = 0; /* which is what there must be for the segments to be looked at */
	return bpf_check_mtu(skb, ifindex, &length, 0, BPF_MTU_CHK_SEGS);
}

/* to_stack hands a packet that cannot go on, in routing form, to the host's stack, which tells its
 * source why: Packet Too Big, or Time Exceeded. It comes in by ip6d0, where its source belongs, so
 * that no reverse path filter objects. The hop limit is left for the stack to find. */
static __always_inline int to_stack(struct __sk_buff *skb, struct packet *p, struct address source,
				    struct address destination, enum drop_reason reason,
				    enum way way)
{
	count_drop(skb, p, reason, way);
	if (!own.stack_ifindex)
		return TC_ACT_SHOT;
	if (!write_packet(skb, p, source, destination, 0, way) ||
	    !write_ethernet(skb, own.stack_mac, own.gateway_mac, way))
		return TC_ACT_SHOT;
	return bpf_redirect(own.stack_ifindex, BPF_F_INGRESS);
}

/* reveal writes both addresses in stable form, as machines and hosts' services see them. A source
 * that has none is an error's, and stays. */
static __always_inline bool reveal(struct __sk_buff *skb, const struct packet *p, __u8 spent,
				   enum way way)
{
	if (is_error(p) && !translate_embedded(skb, p))
		return false;
	return write_packet(skb, p, p->outside ? p->source : stable_address(p->from),
			    stable_address(p->to), spent, way);
}

/* is_foreign_error tells a machine's error about a packet that this host's endpoint did not send to
 * it: the host's stack would learn from it about its way to another machine, of another network
 * even. */
static __always_inline bool is_foreign_error(struct __sk_buff *skb, const struct packet *p)
{
	struct address pair[2];

	if (!is_error(p) || p->outside || p->from.network == 0)
		return false;
	return !read_embedded(skb, p, pair) ||
	       !same(reveal_embedded(pair[1]), stable_address(p->from));
}

/* enter_stack delivers to this host's endpoint, as if it had come in through ip6d0. */
static __always_inline int enter_stack(struct __sk_buff *skb, struct packet *p, enum way way)
{
	if (p->to.cell != own.cell)
		return drop(skb, p, DROP_NOT_HERE, way);
	if (!own.stack_ifindex)
		return drop(skb, p, DROP_NO_STACK, way);
	if (is_tunnelled(p))
		return drop(skb, p, DROP_TUNNELLED, way);
	if (is_foreign_error(skb, p))
		return drop(skb, p, DROP_FOREIGN_ERROR, way);
	if (!reveal(skb, p, 0, way) || !write_ethernet(skb, own.stack_mac, own.gateway_mac, way))
		return drop(skb, p, DROP_MALFORMED, way);
	return bpf_redirect(own.stack_ifindex, BPF_F_INGRESS);
}

/* deliver puts the packet into the machine's port. */
static __always_inline int deliver(struct __sk_buff *skb, struct packet *p,
				   const struct machine *machine, enum way way)
{
	/* only the sender's own host counts as a hop; a host that delivers is none */
	__u8 spent = way == FROM_MACHINE;
	enum drop_reason refused = DROP_NONE;
	long size;

	if (!machine->ifindex)
		return drop(skb, p, DROP_NO_PORT, way);
	size = check_mtu(skb, p, machine->ifindex);
	if (size < 0)
		return drop(skb, p, DROP_NO_PORT, way);
	if (spent && p->hop_limit <= 1)
		refused = DROP_HOP_LIMIT;
	else if (size != BPF_MTU_CHK_RET_SUCCESS)
		refused = DROP_TOO_BIG;
	/* nobody tells an error's source of an error (RFC 4443 section 2.4 e) */
	if (refused && (way == FROM_STACK || p->outside))
		return drop(skb, p, refused, way);
	/* the sender under this host's id, wherever he is: what the stack tells him comes by ip6d0 */
	if (refused)
		return to_stack(skb, p, routing_address(p->from, own.host),
				routing_address(p->to, own.host), refused, way);

	if (!reveal(skb, p, spent, way) || !write_ethernet(skb, machine->mac, own.gateway_mac, way))
		return drop(skb, p, DROP_MALFORMED, way);
	if (machine->enter == ENTER_PEER) {
		for_us(skb); /* the peer's stack takes pkt_type as it is */
		return bpf_redirect_peer(machine->ifindex, 0);
	}
	return bpf_redirect(machine->ifindex, 0);
}

/* Where a packet goes that is not for a port here. */
struct place {
	__u32 host; /* 0: nowhere that is known */
	__u32 slot;
};

/* forward sends the packet to another host, in routing form and under this host's id. */
static __always_inline int forward(struct __sk_buff *skb, struct packet *p, struct place to,
				   enum way way)
{
	__u8 spent = way != FROM_STACK; /* there this host is no router, but the sender */
	struct next_hop *hop = bpf_map_lookup_elem(&hosts, &to.slot);
	struct address source, destination;
	long size;

	/* a slot may have gone to another host after its number was read */
	if (!hop || hop->host != to.host || !hop->ifindex)
		return drop(skb, p, DROP_UNKNOWN_HOST, way);
	source = p->outside ? control_address(p->source) : routing_address(p->from, own.host);
	destination = routing_address(p->to, to.host);

	size = check_mtu(skb, p, hop->ifindex);
	if (size < 0)
		return drop(skb, p, DROP_NO_UNDERLAY, way);
	if (size != BPF_MTU_CHK_RET_SUCCESS) {
		if (way == FROM_STACK) /* ip6d0 has another MTU than the underlay */
			return drop(skb, p, DROP_TOO_BIG, way);
		return to_stack(skb, p, source, destination, DROP_TOO_BIG, way);
	}
	if (spent && p->hop_limit <= 1)
		return to_stack(skb, p, source, destination, DROP_HOP_LIMIT, way);

	if (!write_packet(skb, p, source, destination, spent, way))
		return drop(skb, p, DROP_MALFORMED, way);
	skb->tc_index = CARRIED;
	if (hop->kind == HOP_L3)
		return bpf_redirect(hop->ifindex, 0);
	/* redirect_neigh writes MACs of its own, but refuses a frame to a multicast MAC */
	if (!write_ethernet(skb, hop->mac, hop->source, way))
		return drop(skb, p, DROP_MALFORMED, way);
	if (bpf_jiffies64() < hop->trusted_until) /* the clock that is read in one instruction */
		return bpf_redirect(hop->ifindex, 0);

	struct bpf_redir_neigh neighbour = {.nh_family = 10 /* AF_INET6 */};

	__builtin_memcpy(neighbour.ipv6_nh, hop->gateway, sizeof(hop->gateway));
	return bpf_redirect_neigh(hop->ifindex, &neighbour, sizeof(neighbour), 0);
}

/* find copies the machine's entry, if there is one.
 *
 * A hash map gives the place of a deleted entry to the next one at once. So what is read here may,
 * after a stall of this CPU, belong to another machine by then. Entries are written from the front:
 * the network is compared after all else has been read, and so a packet never reaches a machine of
 * another network. */
static __always_inline enum drop_reason find(const struct numbers *to, struct machine *machine)
{
	struct machine_id id = {.machine = to->machine, .cell = to->cell};
	struct machine *entry = bpf_map_lookup_elem(&machines, &id);

	if (!entry)
		return DROP_NONE;
	*machine = *entry;
	barrier();
	if (*(volatile __u32 *)&entry->network != to->network)
		return DROP_NETWORK_MISMATCH;
	return DROP_NONE;
}

static __always_inline struct block *find_block(const struct numbers *to)
{
	__u32 number = to->machine >> BLOCK_SHIFT;

	return to->cell == own.cell ? bpf_map_lookup_elem(&blocks, &number) : NULL;
}

/* home is where all machines of a block are, as far as is known here, that have no entry of their own. */
static __always_inline struct place home(const struct block *block)
{
	return block ? (struct place){block->home, block->slot} : (struct place){};
}

/* believed is where this host believes a machine to be that is not here: its own entry, else its
 * block's home. */
static __always_inline struct place believed(const struct numbers *to, const struct block *block)
{
	__u32 number = to->machine >> BLOCK_SHIFT;
	struct movers *movers;
	struct next_hop *hop;
	__u32 slot;

	if (!block || !block->moved)
		return home(block);
	movers = bpf_map_lookup_elem(&moved, &number);
	slot = movers ? movers->slot[to->machine & (BLOCK_SIZE - 1)] : 0;
	if (!slot)
		return home(block);
	slot--;
	hop = bpf_map_lookup_elem(&hosts, &slot);
	return (struct place){hop ? hop->host : 0, slot};
}

/* at_endpoint is the host of an endpoint: the machine is the host. */
static __always_inline struct place at_endpoint(const struct numbers *to)
{
	__u32 host = to->machine;
	__u32 *slot = bpf_map_lookup_elem(&slots, &host);

	return (struct place){host, slot ? *slot : ~0u};
}

/* locate finds where the destination is: here, if machine->state is delivering after it, else at
 * place. */
static __always_inline enum drop_reason locate(const struct packet *p, struct machine *machine,
					       struct place *place, enum way way)
{
	struct block *block = NULL;
	enum drop_reason refused;

	if (p->to.network == 0) {
		*place = at_endpoint(&p->to);
		return DROP_NONE;
	}
	/* what machines send is mostly for other hosts; what others bring is mostly for here */
	if (way == FROM_MACHINE)
		block = find_block(&p->to);
	if (!block || block->here) {
		refused = find(&p->to, machine);
		if (refused)
			return refused;
	}

	*place = (struct place){machine->host, machine->slot};
	switch (machine->state) {
	case STATE_DELIVERING:
		return DROP_NONE;
	case STATE_INCOMING:
		if (p->from.host == machine->host)
			machine->state = STATE_DELIVERING;
		return DROP_NONE;
	case STATE_AWAY:
		/* knowledge, not belief, so it may go back: the target gives what comes from here
		 * to the port */
		return DROP_NONE;
	}

	if (way != FROM_MACHINE)
		block = find_block(&p->to);
	*place = believed(&p->to, block);
	if (!place->host || place->host == own.host)
		return DROP_NOT_HERE;
	return place->host == p->from.host ? DROP_LOOP : DROP_NONE;
}

/* is_astray tells a packet that another host sent here for a machine that has left, or was never
 * here. Who sends to where it arrives sends to the owner, and is to go on doing so until the owner
 * is another. */
static __always_inline bool is_astray(const struct packet *p, const struct machine *machine,
				      enum way way)
{
	return is_from_underlay(way) && p->to.network != 0 && p->from.host != 0 &&
	       machine->state != STATE_DELIVERING && machine->state != STATE_INCOMING;
}

/* carry takes a packet to where its destination is. p->from.host is the host that it came from. */
static __always_inline int carry(struct __sk_buff *skb, struct packet *p, enum way way)
{
	struct machine machine = {};
	enum drop_reason refused;
	struct place place = {};

	refused = locate(p, &machine, &place, way);
	if (machine.state == STATE_DELIVERING && !refused)
		return deliver(skb, p, &machine, way);
	if (is_astray(p, &machine, way) && refused != DROP_NETWORK_MISMATCH)
		tell_astray(skb, p, way);
	if (refused)
		return drop(skb, p, refused, way);
	if (p->to.network == 0 && place.host == own.host)
		return enter_stack(skb, p, way);
	return forward(skb, p, place, way);
}
