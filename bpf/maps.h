/* The maps. Sizes are set by package nat. All are preallocated: an update in the middle of a move
 * must not fail for memory.
 *
 * What each packet of a machine asks is in arrays: a look into one is compiled to a few
 * instructions, one into a hash map is a call or more. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "ip6d.h"

/* own is what this host is told about itself. */
const volatile struct settings own = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
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
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* block */
	__type(value, struct block);
	__uint(max_entries, 1);
} blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE); /* package nat writes an entry in one store */
	__type(key, __u32);		   /* block */
	__type(value, struct movers);
	__uint(max_entries, 1);
} moved SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* block */
	__type(value, struct epochs);
	__uint(max_entries, 1);
} epochs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* slot */
	__type(value, struct next_hop);
	__uint(max_entries, 1);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);   /* host */
	__type(value, __u32); /* slot */
	__uint(max_entries, 1);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* 0 */
	__type(value, struct fence);
	__uint(max_entries, 1);
} fence SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32);   /* host */
	__type(value, __u32); /* 1 */
	__uint(max_entries, 1);
} dead SEC(".maps");

/* Room for reasons to come, so that an upgrade finds the pinned map large enough. */
#define DROPS 64
_Static_assert(DROP_REASONS <= DROPS, "a new size of `drops` does not fit the pinned map");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum drop_reason);
	__type(value, __u64);
	__uint(max_entries, DROPS);
} drops SEC(".maps");

/* Events of refused and of misled packets, for the daemon; lost while nobody reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__type(value, struct event);	 /* what Go reads the layout from */
	__uint(max_entries, 256 * 1024); /* bytes */
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum events_lost_cause);
	__type(value, __u64);
	__uint(max_entries, 8);
} events_lost SEC(".maps");

/* How many events of a reason this CPU has sent in the current window. */
struct sample {
	__u64 window;
	__u64 sent;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, enum drop_reason);
	__type(value, struct sample);
	__uint(max_entries, DROPS);
} samples SEC(".maps");

/* When a host was last told that a machine is not here; of this host: when the daemon was last told
 * that a machine sends which it waits for. */
struct told {
	__u32 machine;
	__u32 host;
	__u16 cell;
	__u16 reserved; /* 0 */
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct told);
	__type(value, __u64); /* CLOCK_MONOTONIC_COARSE in ns */
	__uint(max_entries, 4096);
} told SEC(".maps");

/* How far this host's database had come, for a daemon that finds an older one; no program reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* 0 */
	__type(value, struct witness);
	__uint(max_entries, 1);
} witness SEC(".maps");
