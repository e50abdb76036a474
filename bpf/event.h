/* Counting and telling what is refused, and who sends to where a machine is not. */
#pragma once

#include "packet.h"

#define EVENT_WINDOW_SHIFT 30	      /* a window of 2^30 ns, about a second */
#define EVENT_BURST	   16	      /* events of one reason that a CPU sends in a window */
#define TOLD_INTERVAL	   1000000000 /* ns between two messages to one host about one machine */

static __always_inline void count_lost(enum events_lost_cause cause)
{
	__u64 *events = bpf_map_lookup_elem(&events_lost, &cause);

	if (events)
		*events += 1;
}

static __always_inline void send_event(struct __sk_buff *skb, const struct packet *p,
				       enum event_kind kind, enum drop_reason reason, enum way way,
				       __u32 host)
{
	struct event *e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);

	if (!e) {
		count_lost(LOST_RING_FULL);
		return;
	}
	*e = (struct event){
		.time = bpf_ktime_get_coarse_ns(),
		.source = p->source,
		.destination = p->destination,
		.ifindex = skb->ifindex,
		.length = skb->len,
		.host = host,
		.reason = reason,
		.kind = kind,
		.way = way,
		.next_header = p->next_header,
		.hop_limit = p->hop_limit,
	};
	bpf_ringbuf_submit(e, 0);
}

/* is_sampled tells whether this refusal is one of the few of its reason that are told of. What went
 * astray has the place of DROP_NONE. */
static __always_inline bool is_sampled(enum drop_reason reason)
{
	__u64 window = bpf_ktime_get_coarse_ns() >> EVENT_WINDOW_SHIFT;
	struct sample *s = bpf_map_lookup_elem(&samples, &reason);

	if (!s)
		return false;
	if (s->window != window) {
		s->window = window;
		s->sent = 0;
	}
	if (s->sent >= EVENT_BURST) {
		count_lost(LOST_SAMPLED);
		return false;
	}
	s->sent++;
	return true;
}

/* count_drop counts a packet that does not get where it was to go. */
static __noinline int count_drop(struct __sk_buff *skb, const struct packet *p,
				 enum drop_reason reason, enum way way)
{
	__u64 *packets = bpf_map_lookup_elem(&drops, &reason);

	if (packets)
		*packets += 1;
	if (is_sampled(reason))
		send_event(skb, p, EVENT_DROP, reason, way, 0);
	return TC_ACT_SHOT;
}

/* drop refuses a packet, and is the verdict of the program. */
static __always_inline int drop(struct __sk_buff *skb, const struct packet *p,
				enum drop_reason reason, enum way way)
{
	count_drop(skb, p, reason, way);
	return TC_ACT_SHOT;
}

/* was_told tells whether a message went out less than TOLD_INTERVAL ago. */
static __always_inline bool was_told(const struct told *key, __u64 now)
{
	__u64 *last = bpf_map_lookup_elem(&told, key);

	return last && now - *last < TOLD_INTERVAL;
}

/* tell_sent tells the daemon that the machine p->from sends. It goes on until nobody waits for it:
 * a daemon that was down, or has forgotten, is told by the next packet. */
static __noinline int tell_sent(struct __sk_buff *skb, const struct packet *p, enum way way)
{
	struct told key = {.machine = p->from.machine, .cell = p->from.cell, .host = own.host};
	__u64 now = bpf_ktime_get_coarse_ns();

	if (was_told(&key, now))
		return 0;
	bpf_map_update_elem(&told, &key, &now, BPF_ANY);
	send_event(skb, p, EVENT_SENT, DROP_NONE, way, own.host);
	return 0;
}

/* tell_astray has the daemon tell a host that it sent a packet for a machine that is not here. */
static __noinline int tell_astray(struct __sk_buff *skb, const struct packet *p, enum way way)
{
	struct told key = {.machine = p->to.machine, .cell = p->to.cell, .host = p->from.host};
	__u64 now = bpf_ktime_get_coarse_ns();

	if (was_told(&key, now))
		return 0;
	/* a machine that tries all numbers of its network makes a key of each */
	if (!is_sampled(DROP_NONE))
		return 0;
	bpf_map_update_elem(&told, &key, &now, BPF_ANY);
	send_event(skb, p, EVENT_ASTRAY, DROP_NONE, way, p->from.host);
	return 0;
}
