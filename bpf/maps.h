/* The maps. Sizes are set by package nat. All are preallocated: an update in the middle of a move
 * must not fail for memory, and an entry of `moved` then takes 72 bytes and a bucket of 16, where
 * one allocated on demand takes 96 and the bucket. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "ip6d.h"

/* own is what this host is told about itself. */
const volatile struct settings own = {};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* ifindex */
	__type(value, struct port);
	__uint(max_entries, 1);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct machine_id);
	__type(value, struct machine);
	__uint(max_entries, 1);
} machines SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct machine_id);
	__type(value, struct mover);
	__uint(max_entries, 1);
} moved SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct block_id);
	__type(value, struct block);
	__uint(max_entries, 1);
} blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* host */
	__type(value, struct next_hop);
	__uint(max_entries, 1);
} hosts SEC(".maps");

/* Room for reasons to come, so that an upgrade finds the pinned map large enough. */
#define DROPS 64
_Static_assert(DROP_REASONS <= DROPS, "a new size of `drops` does not fit the pinned map");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum drop_reason);
	__type(value, __u64);
	__uint(max_entries, DROPS);
} drops SEC(".maps");

/* drop counts a refusal and is the verdict of the program. */
static __always_inline int drop(enum drop_reason reason)
{
	__u64 *packets = bpf_map_lookup_elem(&drops, &reason);

	if (packets)
		*packets += 1;
	return 2; /* TC_ACT_SHOT */
}
