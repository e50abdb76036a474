/* Where a packet goes, and how it gets there. */
#pragma once

#include "packet.h"

#define BLOCK_SHIFT 8 /* 256 machines in a block */

/* The way a packet came into the datapath; a constant in each program. */
enum way {
	FROM_MACHINE,
	FROM_UNDERLAY,
	FROM_STACK,
};

/* to_stack hands the translated packet to the host's stack, which answers its source: Packet Too
 * Big, or Time Exceeded. The hop limit is left for it to find. */
static __always_inline int to_stack(struct __sk_buff *skb, const struct packet *p)
{
	if (!write_packet(skb, p, 0))
		return drop(DROP_MALFORMED);
	for_us(skb);
	return TC_ACT_OK;
}

/* reveal gives both addresses their stable form, as machines and hosts' services see them. A source
 * that has none is an error's, and stays. */
static __always_inline bool reveal(struct __sk_buff *skb, struct packet *p)
{
	if (is_error(p) && !translate_embedded(skb, p))
		return false;
	if (!p->outside)
		p->source = stable_address(p->from);
	p->destination = stable_address(p->to);
	return true;
}

/* enter_stack delivers to this host's endpoint, as if it had come in through ip6d0. */
static __always_inline int enter_stack(struct __sk_buff *skb, struct packet *p)
{
	if (p->to.cell != own.cell)
		return drop(DROP_NOT_HERE);
	if (!own.stack_ifindex)
		return drop(DROP_NO_STACK);
	if (!reveal(skb, p) || !write_packet(skb, p, 0) ||
	    !write_ethernet(skb, own.stack_mac, own.gateway_mac))
		return drop(DROP_MALFORMED);
	return bpf_redirect(own.stack_ifindex, BPF_F_INGRESS);
}

/* deliver puts the packet into the machine's port. */
static __always_inline int deliver(struct __sk_buff *skb, struct packet *p,
				   const struct machine *machine, enum way way)
{
	/* only the sender's own host counts as a hop; a host that delivers is none */
	__u8 spent = way == FROM_MACHINE;

	if (!machine->ifindex)
		return drop(DROP_NO_PORT);
	if (spent && p->hop_limit <= 1) {
		p->source = routing_address(p->from, own.host);
		p->destination = routing_address(p->to, own.host);
		return to_stack(skb, p);
	}
	if (!reveal(skb, p) || !write_packet(skb, p, spent) ||
	    !write_ethernet(skb, machine->mac, own.gateway_mac))
		return drop(DROP_MALFORMED);
	if (machine->enter == ENTER_PEER) {
		for_us(skb); /* the peer's stack takes pkt_type as it is */
		return bpf_redirect_peer(machine->ifindex, 0);
	}
	return bpf_redirect(machine->ifindex, 0);
}

/* forward sends the packet to another host, in routing form and under this host's id. */
static __always_inline int forward(struct __sk_buff *skb, struct packet *p, __u32 host,
				   enum way way)
{
	__u8 spent = way != FROM_STACK; /* there this host is no router, but the sender */
	struct next_hop *hop = bpf_map_lookup_elem(&hosts, &host);
	__u32 mtu = 0; /* 0: of the packet as it is */
	long size;

	if (!hop)
		return drop(DROP_UNKNOWN_HOST);
	if (p->outside) {
		p->source = control_address(p->source);
	} else {
		if (p->from.network == 0 && p->from.machine != own.host)
			return drop(DROP_ENDPOINT_RELAY);
		p->source = routing_address(p->from, own.host);
	}
	p->destination = routing_address(p->to, host);

	size = bpf_check_mtu(skb, hop->ifindex, &mtu, 0, BPF_MTU_CHK_SEGS);
	if (size < 0)
		return drop(DROP_NO_UNDERLAY);
	if (size != BPF_MTU_CHK_RET_SUCCESS && way == FROM_STACK)
		return drop(DROP_TOO_BIG); /* ip6d0 has another MTU than the underlay */
	if (size != BPF_MTU_CHK_RET_SUCCESS || (spent && p->hop_limit <= 1))
		return to_stack(skb, p);

	/* redirect_neigh writes MACs of its own, but refuses a frame to a multicast MAC */
	if (!write_packet(skb, p, spent) || !write_ethernet(skb, hop->mac, hop->source))
		return drop(DROP_MALFORMED);
	if (bpf_ktime_get_ns() < hop->trusted_until)
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

/* believed is the host that this host believes a machine to be on that is not here: its own entry,
 * else its block's home. 0: nothing is known. */
static __always_inline __u32 believed(const struct numbers *to)
{
	struct block_id block = {.block = to->machine >> BLOCK_SHIFT, .cell = to->cell};
	struct machine_id id = {.machine = to->machine, .cell = to->cell};
	struct block *home = bpf_map_lookup_elem(&blocks, &block);
	struct mover *mover;

	if (home && !home->movers)
		return home->home;
	mover = bpf_map_lookup_elem(&moved, &id);
	if (mover)
		return mover->host;
	return home ? home->home : 0;
}

/* locate finds where the destination is: here, if machine->state is delivering after it, else at
 * host. */
static __always_inline enum drop_reason locate(const struct packet *p, struct machine *machine,
					       __u32 *host)
{
	enum drop_reason refused;

	if (p->to.network == 0) { /* an endpoint: the machine is the host */
		*host = p->to.machine;
		return DROP_NONE;
	}
	refused = find(&p->to, machine);
	if (refused)
		return refused;

	*host = machine->host;
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

	*host = believed(&p->to);
	if (!*host || *host == own.host)
		return DROP_NOT_HERE;
	return *host == p->from.host ? DROP_LOOP : DROP_NONE;
}

/* carry takes a packet to where its destination is. p->from.host is the host that it came from. */
static __always_inline int carry(struct __sk_buff *skb, struct packet *p, enum way way)
{
	struct machine machine = {};
	enum drop_reason refused;
	__u32 host;

	refused = locate(p, &machine, &host);
	if (refused)
		return drop(refused);
	if (machine.state == STATE_DELIVERING)
		return deliver(skb, p, &machine, way);
	if (p->to.network == 0 && host == own.host)
		return enter_stack(skb, p);
	return forward(skb, p, host, way);
}
