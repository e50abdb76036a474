//go:build ignore

/* The guard of a machine's port: it drops and counts what is for the machine while the port is not the one
 * that the machine listens on. Neighbour discovery and all else that is not for the stable address passes. */

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "ip6d.h"

#define PASS (-1) /* TCX_NEXT */
#define DROP 2	  /* TCX_DROP */

#define PROTOCOL_UDP 17 /* linux/in.h and linux/in6.h do not go together */

enum mode {
	GATE_EARLY, /* closed: the switchover has not been asked for */
	GATE_WATCH, /* open once the source says that the machine is away */
	GATE_OPEN,
	GATE_LATE, /* closed: the switchover was committed, to another port */
};

/* Set by package guard while packets come. */
volatile enum mode gate = GATE_EARLY;

/* The machine, set before the program is loaded. */
const volatile struct in6_addr stable = {};
const volatile struct machine_id machine = {};

/* What came for the machine. The first of each pair counts UDP, the second all else. */
struct counts {
	__u64 passed[2];
	__u64 early[2];
	__u64 late[2];
};
volatile struct counts counts = {};

/* The map of this name of the source host, put in its place before the program is loaded. It is what makes
 * "early" exact: whether the source had let go is read from where the source reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct machine_id);
	__type(value, struct machine);
	__uint(max_entries, 1);
} machines SEC(".maps");

static __always_inline bool is_away(void)
{
	struct machine_id id = {.machine = machine.machine, .cell = machine.cell};
	struct machine *entry = bpf_map_lookup_elem(&machines, &id);

	return entry && entry->state == STATE_AWAY;
}

static __always_inline bool is_for_machine(const struct ipv6hdr *ip)
{
	for (int i = 0; i < 4; i++)
		if (ip->daddr.in6_u.u6_addr32[i] != stable.in6_u.u6_addr32[i])
			return false;
	return true;
}

SEC("tcx/ingress")
int guard(struct __sk_buff *skb)
{
	struct ipv6hdr ip;
	__u32 other;
	enum mode now = gate;

	if (skb->protocol != bpf_htons(ETH_P_IPV6) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, &ip, sizeof(ip)) || !is_for_machine(&ip))
		return PASS;
	other = ip.nexthdr == PROTOCOL_UDP ? 0 : 1;

	if (now == GATE_LATE) {
		__sync_fetch_and_add(&counts.late[other], 1);
		return DROP;
	}
	if (now == GATE_EARLY || (now == GATE_WATCH && !is_away())) {
		__sync_fetch_and_add(&counts.early[other], 1);
		return DROP;
	}
	__sync_fetch_and_add(&counts.passed[other], 1);
	return PASS;
}

char _license[] SEC("license") = "GPL";
