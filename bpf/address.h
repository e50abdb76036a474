/* The address plan: the same arithmetic as package addr, on numbers. */
#pragma once

#include "maps.h"

/* An address in its numbers. */
struct numbers {
	__u32 network;
	__u32 machine;
	__u32 host; /* routing form only */
	__u16 cell;
};

static __always_inline bool same(struct address a, struct address b)
{
	return a.high == b.high && a.low == b.low;
}

static __always_inline __u16 prefix(struct address a)
{
	return a.high >> 48;
}

/* residue is the sum of hextets as its residue modulo 0xffff, 0 to 0xfffe (RFC 1071 section 1). */
static __always_inline __u32 residue(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum == 0xffff ? 0 : sum;
}

/* Network and machine are in both forms, so what is left of "sum of S = sum of R" is
 *
 *	stable + C + 2 = routing + H1 + H0 + K
 *
 * in one's-complement arithmetic, where 0xffff * n may be added to keep a difference positive. */
static __always_inline __u16 neutral_word(__u16 cell, __u32 host)
{
	return residue(own.stable + cell + 2 + 3 * 0xffff - own.routing - (host >> 16) -
		       (host & 0xffff));
}

static __always_inline __u16 cell_of(__u16 neutral, __u32 host)
{
	return residue(own.routing + (host >> 16) + (host & 0xffff) + neutral + 2 * 0xffff -
		       own.stable - 2);
}

static __always_inline struct address stable_address(struct numbers n)
{
	return (struct address){
		.high = (__u64)own.stable << 48 | (__u64)n.network << 16 | n.cell,
		.low = (__u64)n.machine << 16 | 2,
	};
}

static __always_inline struct address routing_address(struct numbers n, __u32 host)
{
	return (struct address){
		.high = (__u64)own.routing << 48 | (__u64)host << 16 | n.network >> 16,
		.low = (__u64)n.network << 48 | (__u64)n.machine << 16 | neutral_word(n.cell, host),
	};
}

/* control_address is this host's control form with the sum of a. */
static __always_inline struct address control_address(struct address a)
{
	__u32 host = residue(own.routing + (own.host >> 16) + (own.host & 0xffff));
	/* each half is folded first: their sum could overflow */
	__u32 sum = residue(a.high) + residue(a.low);

	return (struct address){
		.high = (__u64)own.routing << 48 | (__u64)own.host << 16,
		.low = residue(sum + 0xffff - host),
	};
}

/* read_stable takes a stable address apart; false: it is not valid. */
static __always_inline bool read_stable(struct address a, struct numbers *n)
{
	n->network = a.high >> 16;
	n->cell = a.high;
	n->machine = a.low >> 16;
	return (a.low & 0xffff00000000ffff) == 2 && n->cell != 0 && n->cell != 0xffff &&
	       (n->network || n->machine);
}

/* is_control tells the routing addresses that belong to a host itself, and have no stable form. */
static __always_inline bool is_control(struct address a)
{
	return (a.high & 0xffff) == 0 && a.low >> 16 == 0;
}

/* read_routing takes a routing address apart; false: it is not valid. For a control address only
 * the host means anything. Network 0 with a machine that is not the host is no address of anything
 * of that host, but what a host writes that forwards an endpoint's packet (addr.Plan.Relay). */
static __always_inline bool read_routing(struct address a, struct numbers *n)
{
	__u16 neutral = a.low;

	n->host = a.high >> 16;
	n->network = a.high << 16 | a.low >> 48;
	n->machine = a.low >> 16;
	n->cell = cell_of(neutral, n->host);
	if (n->host == 0 || neutral == 0xffff)
		return false;
	if (is_control(a))
		return true;
	return n->cell != 0;
}
