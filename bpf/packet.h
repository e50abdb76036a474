/* Reading a packet, and writing what was decided into it. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in6.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "address.h"

/* Verdicts. A packet left as it was goes on to the next program or filter on the device (NEXT,
 * TCX_NEXT of newer headers); one that was translated for the host's stack is final (TC_ACT_OK):
 * nothing else expects it. */
#define NEXT (-1)

/* Next header values that linux/in6.h lacks or hides (RFC 8200 section 4.1, RFC 4302). */
#define PROTOCOL_HOP_BY_HOP  0
#define PROTOCOL_ROUTING     43
#define PROTOCOL_FRAGMENT    44
#define PROTOCOL_AUTH	     51
#define PROTOCOL_ICMPV6	     58
#define PROTOCOL_DESTINATION 60
#define PROTOCOL_IPV4	     4
#define PROTOCOL_IPV6	     41
#define PROTOCOL_GRE	     47
#define PROTOCOL_ETHERNET    143 /* RFC 8986 section 4 */

/* A longer chain of extension headers than this is refused: nobody sends one, but to hide what
 * follows. */
#define MAX_EXTENSION_HEADERS 6

#define ICMPV6_HEADER 8
#define JUMBO_OPTION  8	 /* the hop-by-hop header with nothing else in it */
#define TCP_OFFSET    12 /* in a TCP header: of the byte with the header's length */
#define LAST_ERROR    4	 /* ICMPv6 1 to 4 are the errors (RFC 4443 section 2.1) */

#define VLAN_ID 0x0fff /* of skb->vlan_tci */

#define PACKET_HOST	 0 /* linux/if_packet.h */
#define PACKET_OTHERHOST 3

#define CHECKSUM_PARTIAL 3 /* linux/skbuff.h: of ip_summed */

/* The kernel's own record of a packet, as far as it is asked. The loader finds where in it the
 * fields are. */
struct sk_buff {
	__u8 ip_summed : 2;
	__u16 csum_start;  /* from where network_header is from */
	__u16 csum_offset; /* from csum_start */
	__u16 network_header;
} __attribute__((preserve_access_index));

extern void *bpf_cast_to_kern_ctx(void *skb) __ksym __weak; /* Linux 6.2 */

/* A packet, as far as anything is decided on it. Offsets are from the start of the frame. */
struct packet {
	struct address source; /* as it came, and so is the destination */
	struct address destination;
	struct numbers from;
	struct numbers to;
	__u32 l3;    /* where the IPv6 header begins: 0 on a device without a link layer */
	__u32 end;   /* of the IPv6 packet; what follows is padding */
	__u32 upper; /* behind the extension headers: of the ICMPv6 header, where icmpv6 is not 0 */
	__u8 next_header;
	__u8 hop_limit;
	__u8 icmpv6;	     /* type; 0: not ICMPv6, or not its first fragment */
	__u8 upper_protocol; /* behind the extension headers; ICMPv6 and before: not looked for */
	bool fragment;	     /* of a larger packet */
	bool jumbogram;	     /* its length is in a jumbo payload option (RFC 2675) */
	bool outside;	     /* the source is nobody's: from is not known, but perhaps its host */
};

/* swap turns an address as it is on the wire into numbers, and back. */
static __always_inline struct address swap(struct address a)
{
	return (struct address){bpf_be64_to_cpu(a.high), bpf_be64_to_cpu(a.low)};
}

static __always_inline struct address read_address(const struct in6_addr *a)
{
	return swap(*(const struct address *)a);
}

static __always_inline void write_address(struct in6_addr *to, struct address a)
{
	*(struct address *)to = swap(a);
}

static __always_inline __u32 l3_of(enum way way)
{
	return way == FROM_UNDERLAY_L3 || way == FROM_ELSEWHERE_L3 ? 0 : ETH_HLEN;
}

/* ip_header returns the IPv6 header at l3, or NULL. Pointers into the packet from before are void
 * after it. */
static __always_inline struct ipv6hdr *ip_header(struct __sk_buff *skb, __u32 l3)
{
	const __u32 length = l3 + sizeof(struct ipv6hdr);
	void *data = (void *)(long)skb->data;

	/* headers may be in a page: from a TAP, a packet socket, some drivers */
	if (data + length > (void *)(long)skb->data_end)
		bpf_skb_pull_data(skb, length);
	data = (void *)(long)skb->data;
	if (data + length > (void *)(long)skb->data_end)
		return NULL;
	return data + l3;
}

/* read_packet reads the IPv6 header. */
static __always_inline enum drop_reason read_packet(struct __sk_buff *skb, struct packet *p,
						    enum way way)
{
	const __u32 l3 = l3_of(way);
	struct ipv6hdr *ip = ip_header(skb, l3);
	__u32 length;

	if (!ip || ip->version != 6)
		return DROP_MALFORMED;
	p->l3 = l3;
	p->source = read_address(&ip->saddr);
	p->destination = read_address(&ip->daddr);
	p->next_header = ip->nexthdr;
	p->hop_limit = ip->hop_limit;
	length = bpf_ntohs(ip->payload_len);
	p->end = l3 + sizeof(*ip) + length;
	if (p->end > skb->len)
		return DROP_MALFORMED;
	if (length == 0 && p->next_header == PROTOCOL_HOP_BY_HOP) {
		p->jumbogram = true;
		p->end = skb->len;
	}
	return DROP_NONE;
}

static __always_inline bool is_extension(__u8 next)
{
	return next == PROTOCOL_HOP_BY_HOP || next == PROTOCOL_ROUTING ||
	       next == PROTOCOL_FRAGMENT || next == PROTOCOL_AUTH || next == PROTOCOL_DESTINATION;
}

/* read_extensions is read_upper for packets in which there is something to read. */
static __noinline enum drop_reason read_extensions(struct __sk_buff *skb, struct packet *p)
{
	__u32 offset = p->l3 + sizeof(struct ipv6hdr);
	__u8 next = p->next_header;
	__u8 header[4];

#pragma clang loop unroll(disable)
	for (int i = 0; i <= MAX_EXTENSION_HEADERS; i++) {
		__u32 length;

		p->upper_protocol = next;
		p->upper = offset;
		if (next == PROTOCOL_ROUTING)
			return DROP_ROUTING_HEADER;
		if (next != PROTOCOL_ICMPV6 && !is_extension(next))
			return DROP_NONE;
		if (offset + sizeof(header) > p->end ||
		    bpf_skb_load_bytes(skb, offset, header, sizeof(header)))
			return DROP_MALFORMED;
		switch (next) {
		case PROTOCOL_ICMPV6:
			p->icmpv6 = header[0];
			return DROP_NONE;
		case PROTOCOL_FRAGMENT: /* RFC 8200 section 4.5 */
			p->fragment = true;
			p->upper_protocol = header[0];
			p->upper = offset + 8;
			if (header[2] || header[3] & 0xf8)
				return DROP_NONE;
			length = 8;
			break;
		case PROTOCOL_AUTH: /* RFC 4302 section 2.2 */
			length = (header[1] + 2) * 4;
			break;
		default:
			length = (header[1] + 1) * 8;
		}
		next = header[0];
		offset += length;
	}
	return DROP_EXTENSION_HEADERS;
}

/* overwrites tells a packet that lacks a checksum yet, and has its place in what is decided on: in the
 * headers, up to the ICMPv6 type. Who sends a packet with a virtio header, to a TAP or a packet
 * socket, says where the place is; and the kernel writes there when the packet leaves. */
static __always_inline bool overwrites(struct __sk_buff *skb, const struct packet *p)
{
	int headers = p->upper - p->l3 + sizeof(__u16);
	int place;

	if (bpf_cast_to_kern_ctx) {
		const struct sk_buff *kernel = bpf_cast_to_kern_ctx(skb);

		if (BPF_CORE_READ_BITFIELD(kernel, ip_summed) != CHECKSUM_PARTIAL)
			return false;
		place = kernel->csum_start + kernel->csum_offset - kernel->network_header;
	} else {
		const struct sk_buff *kernel = (const void *)skb;

		if (BPF_CORE_READ_BITFIELD_PROBED(kernel, ip_summed) != CHECKSUM_PARTIAL)
			return false;
		place = BPF_CORE_READ(kernel, csum_start) + BPF_CORE_READ(kernel, csum_offset) -
			BPF_CORE_READ(kernel, network_header);
	}
	return place < headers;
}

/* read_upper finds what is behind any extension headers, and the type where that is ICMPv6. Where
 * the type would be in a later fragment the packet is refused: whoever reassembles it would see
 * what was not looked at (RFC 7112). */
static __always_inline enum drop_reason read_upper(struct __sk_buff *skb, struct packet *p)
{
	enum drop_reason refused = DROP_NONE;

	if (p->next_header == PROTOCOL_ICMPV6 || is_extension(p->next_header)) {
		refused = read_extensions(skb, p);
	} else {
		p->upper_protocol = p->next_header;
		p->upper = p->l3 + sizeof(struct ipv6hdr);
	}
	if (!refused && overwrites(skb, p))
		return DROP_MALFORMED;
	return refused;
}

/* is_tunnelled tells a packet in a packet, which a host's stack might unpack and take for its own. */
static __always_inline bool is_tunnelled(const struct packet *p)
{
	return p->upper_protocol == PROTOCOL_IPV4 || p->upper_protocol == PROTOCOL_IPV6 ||
	       p->upper_protocol == PROTOCOL_GRE || p->upper_protocol == PROTOCOL_ETHERNET;
}

static __always_inline bool is_discovery_type(__u8 icmpv6)
{
	return icmpv6 >= 133 && icmpv6 <= 137;
}

static __always_inline bool is_error(const struct packet *p)
{
	return p->icmpv6 >= 1 && p->icmpv6 <= LAST_ERROR;
}

/* read_embedded reads the addresses of the packet that an ICMPv6 error is about, source first (RFC
 * 4443 section 2.4 c). */
static __always_inline bool read_embedded(struct __sk_buff *skb, const struct packet *p,
					  struct address pair[2])
{
	__u32 offset = p->upper + ICMPV6_HEADER;
	__u8 version;

	if (offset + sizeof(struct ipv6hdr) > p->end)
		return false;
	if (bpf_skb_load_bytes(skb, offset, &version, sizeof(version)) || version >> 4 != 6)
		return false;
	offset += offsetof(struct ipv6hdr, saddr);
	if (bpf_skb_load_bytes(skb, offset, pair, 2 * sizeof(*pair)))
		return false;
	pair[0] = swap(pair[0]);
	pair[1] = swap(pair[1]);
	return true;
}

/* reveal_embedded gives one address of an embedded packet its stable form, where it has one. */
static __always_inline struct address reveal_embedded(struct address a)
{
	struct numbers n;

	if (prefix(a) != own.routing || is_control(a) || !read_routing(a, &n))
		return a;
	return stable_address(n);
}

/* translate_embedded turns what is in routing form there into stable form, so that the machine
 * finds the connection it is about. The ICMPv6 checksum covers it, and stays right: that is what K
 * is for. */
static __noinline bool translate_embedded(struct __sk_buff *skb, const struct packet *p)
{
	__u32 offset = p->upper + ICMPV6_HEADER + offsetof(struct ipv6hdr, saddr);
	struct address pair[2];

	if (!read_embedded(skb, p, pair))
		return true;
	pair[0] = swap(reveal_embedded(pair[0]));
	pair[1] = swap(reveal_embedded(pair[1]));
	return !bpf_skb_store_bytes(skb, offset, pair, sizeof(pair), 0);
}

/* write_packet writes the addresses, and the hop limit less spent (0 or 1). Addresses leave
 * skb->csum as it is; the hop limit is the low half of its 16-bit word, and one less is ~1 more in
 * one's complement. */
static __always_inline bool write_packet(struct __sk_buff *skb, const struct packet *p,
					 struct address source, struct address destination,
					 __u8 spent, enum way way)
{
	struct ipv6hdr *ip = ip_header(skb, l3_of(way));

	if (!ip)
		return false;
	write_address(&ip->saddr, source);
	write_address(&ip->daddr, destination);
	if (spent) {
		ip->hop_limit = p->hop_limit - 1;
		bpf_csum_update(skb, (__u16)~bpf_htons(1)); /* fails unless CHECKSUM_COMPLETE */
	}
	return true;
}

static __always_inline void copy_mac(__u8 *to, const volatile __u8 *from)
{
	*(__u32 *)to = *(const volatile __u32 *)from;
	*(__u16 *)(to + 4) = *(const volatile __u16 *)(from + 4);
}

/* write_ethernet writes the MACs; into a header that it makes first, where the device had none. It
 * comes after all else that is written: pointers and p->l3 are void after it. */
static __always_inline bool write_ethernet(struct __sk_buff *skb, const volatile __u8 *destination,
					   const volatile __u8 *source, enum way way)
{
	struct ethhdr *eth;

	if (!l3_of(way) && bpf_skb_change_head(skb, ETH_HLEN, 0))
		return false;
	eth = (void *)(long)skb->data;
	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return false;
	copy_mac(eth->h_dest, destination);
	copy_mac(eth->h_source, source);
	if (!l3_of(way))
		eth->h_proto = bpf_htons(ETH_P_IPV6);
	return true;
}

/* for_us makes a stack take the packet, whatever MAC it was sent to. */
static __always_inline void for_us(struct __sk_buff *skb)
{
	if (skb->pkt_type != PACKET_HOST)
		bpf_skb_change_type(skb, PACKET_HOST);
}
