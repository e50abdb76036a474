//go:build ignore

/* A program under test rewrites the packet that it is given, and BPF_PROG_RUN gives it the same one
 * again. So a program around it restores the headers first, each time, and then calls it: as it is
 * loaded, by a tail call. The one for comparison calls nothing(). */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define REFUSED 2 /* TC_ACT_SHOT */

#define HEADERS 56 /* Ethernet and IPv6 are 54 bytes: more than a program writes, and whole words */

/* What the packet begins with, set before the programs are loaded. */
const volatile __u64 headers[HEADERS / sizeof(__u64)] = {};

/* The program under test, or nothing(). */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
	__uint(max_entries, 1);
} callee SEC(".maps");

SEC("tcx/ingress")
int restore(struct __sk_buff *skb)
{
	__u64 *data = (void *)(long)skb->data;

	if ((void *)data + HEADERS > (void *)(long)skb->data_end)
		return REFUSED;
	for (int i = 0; i < HEADERS / sizeof(*data); i++)
		data[i] = headers[i];
	bpf_tail_call(skb, &callee, 0);
	return REFUSED;
}

SEC("tcx/ingress")
int nothing(struct __sk_buff *skb)
{
	return 0; /* TC_ACT_OK */
}

char _license[] SEC("license") = "GPL";
