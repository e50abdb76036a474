/* Neighbour discovery between a machine and its gateway, fe80::1 (RFC 4861). It is answered here, so
 * that no machine can fill the neighbour table that all of a computer shares, and none of what a
 * machine sends comes to the host's stack. */
#pragma once

#include "carry.h"

#define LINK_LOCAL	   0xfe80000000000000 /* fe80::/64 (RFC 4291 section 2.5.6) */
#define LINK_LOCAL_SCOPE   0xff02000000000000
#define GATEWAY_SOLICITED  0x00000001ff000001 /* low half of ff02::1:ff00:1 */
#define NEIGHBOUR_SOLICIT  135
#define NEIGHBOUR_ADVERT   136
#define DISCOVERY_HOPLIMIT 255 /* RFC 4861 section 7.1 */
#define SOLICIT_LENGTH	   24  /* without options */

/* An ICMPv6 neighbour advertisement with the option that tells a MAC (RFC 4861 sections 4.4, 4.6.1). */
struct advertisement {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	struct in6_addr target;
	__u8 option;
	__u8 option_length; /* in units of 8 bytes */
	__u8 mac[ETH_ALEN];
} __attribute__((packed));

#define FROM_ROUTER_SOLICITED_OVERRIDE 0xe0000000
#define TARGET_LINK_LAYER_ADDRESS      2

static __always_inline bool is_gateway(struct address a)
{
	return a.high == LINK_LOCAL && a.low == 1;
}

/* asks_for_gateway tells a solicitation of the gateway, as RFC 4861 section 7.1.1 wants it. Its
 * source is the link-local address, or the one that the packet to be sent has (section 7.2.2): the
 * stable one. Extension headers never occur there, so none are looked behind. */
static __always_inline bool asks_for_gateway(struct __sk_buff *skb, const struct packet *p,
					     struct address stable)
{
	struct {
		__u8 type;
		__u8 code;
		__u8 rest[6];
		struct address target;
	} solicit;

	if (p->next_header != PROTOCOL_ICMPV6 || p->hop_limit != DISCOVERY_HOPLIMIT)
		return false;
	if (p->source.high != LINK_LOCAL && !same(p->source, stable))
		return false;
	if (!is_gateway(p->destination) &&
	    (p->destination.high != LINK_LOCAL_SCOPE || p->destination.low != GATEWAY_SOLICITED))
		return false;
	if (p->l3 + sizeof(struct ipv6hdr) + SOLICIT_LENGTH > p->end ||
	    bpf_skb_load_bytes(skb, p->l3 + sizeof(struct ipv6hdr), &solicit, sizeof(solicit)))
		return false;
	return solicit.type == NEIGHBOUR_SOLICIT && solicit.code == 0 &&
	       is_gateway(swap(solicit.target));
}

/* answer sends the solicitation back as the advertisement that it asks for. */
static __noinline int answer(struct __sk_buff *skb, const struct packet *p, enum way way)
{
	struct {
		struct ipv6hdr ip;
		struct advertisement icmp;
	} packet = {
		.ip.version = 6,
		.ip.payload_len = bpf_htons(sizeof(struct advertisement)),
		.ip.nexthdr = PROTOCOL_ICMPV6,
		.ip.hop_limit = DISCOVERY_HOPLIMIT,
		.icmp.type = NEIGHBOUR_ADVERT,
		.icmp.flags = bpf_htonl(FROM_ROUTER_SOLICITED_OVERRIDE),
		.icmp.option = TARGET_LINK_LAYER_ADDRESS,
		.icmp.option_length = 1,
	};
	const struct address gateway = {LINK_LOCAL, 1};
	__u8 asker[ETH_ALEN] __attribute__((aligned(4)));
	__u64 sum;

	write_address(&packet.ip.saddr, gateway);
	write_address(&packet.ip.daddr, p->source);
	write_address(&packet.icmp.target, gateway);
	for (int i = 0; i < ETH_ALEN; i++) /* copy_mac wants an even address */
		packet.icmp.mac[i] = own.gateway_mac[i];
	/* the checksum's sum (RFC 8200 section 8.1), of pseudo-header and message */
	sum = residue(p->source.high) + residue(p->source.low) +
	      2 * (residue(gateway.high) + gateway.low) + sizeof(struct advertisement) +
	      PROTOCOL_ICMPV6 + (NEIGHBOUR_ADVERT << 8) + (FROM_ROUTER_SOLICITED_OVERRIDE >> 16) +
	      (TARGET_LINK_LAYER_ADDRESS << 8 | 1) +
	      (own.gateway_mac[0] << 8 | own.gateway_mac[1]) +
	      (own.gateway_mac[2] << 8 | own.gateway_mac[3]) +
	      (own.gateway_mac[4] << 8 | own.gateway_mac[5]);
	packet.icmp.checksum = bpf_htons(0xffff - residue(sum));

	if (bpf_skb_load_bytes(skb, ETH_ALEN, asker, ETH_ALEN) ||
	    bpf_skb_change_tail(skb, ETH_HLEN + sizeof(packet), 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, &packet, sizeof(packet),
				BPF_F_RECOMPUTE_CSUM | BPF_F_INVALIDATE_HASH) ||
	    !write_ethernet(skb, asker, own.gateway_mac, way))
		return drop(skb, p, DROP_MALFORMED, way);
	return bpf_redirect(skb->ifindex, 0);
}
