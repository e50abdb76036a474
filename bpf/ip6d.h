/* What the programs and package nat share: the layout of the maps, the settings, and the names of
 * drops. Go reads all of it from the compiled object; nothing of it is written down a second time.
 *
 * Numbers are in host byte order everywhere but in MACs and in a gateway's address, which are kept
 * as they are on the wire. */
#pragma once

#include <linux/types.h>

/* An IPv6 address as two numbers: the first eight bytes and the last eight. */
struct address {
	__u64 high;
	__u64 low;
};

/* Set before the programs are loaded, never changed after. */
struct settings {
	__u32 host;	     /* this host's id */
	__u32 stack_ifindex; /* ip6d0; 0: packets for this host's endpoint are refused */
	__u16 stable;	     /* first hextet of stable addresses */
	__u16 routing;	     /* first hextet of routing addresses */
	__u16 cell;	     /* of this host's endpoint */
	__u8 gateway_mac[6]; /* of every port, and so the source of every frame into one */
	__u8 stack_mac[6];   /* of ip6d0 */
	__u16 reserved;
};

/* Key of `machines` and `moved`. */
struct machine_id {
	__u32 machine;
	__u16 cell;
	__u16 reserved; /* 0 */
};

/* Key of `blocks`. */
struct block_id {
	__u32 block;
	__u16 cell;
	__u16 reserved; /* 0 */
};

/* What this host does with packets for a machine; an absent entry is the state none. */
enum machine_state {
	STATE_DELIVERING = 1, /* it is here */
	STATE_INCOMING,	      /* what its owner sends goes into the port, all else to the owner */
	STATE_AWAY,	      /* it has left, and everything follows it */
} __attribute__((packed));

/* How a packet gets into a port. */
enum port_enter {
	ENTER_PEER = 1, /* bpf_redirect_peer: a veth whose peer is in another namespace */
	ENTER_DEVICE,	/* bpf_redirect: every other device */
} __attribute__((packed));

/* `machines`: machines that are here, coming or leaving. The network is first for a reason: see
 * find(). */
struct machine {
	__u32 network;
	__u32 ifindex; /* of the port; 0: none is attached */
	__u64 epoch;
	__u32 host; /* incoming: the owner; away: where it went */
	__u8 mac[6];
	enum machine_state state;
	enum port_enter enter;
	__u32 reserved;
};

/* `moved`: machines whose host is not their block's home. */
struct mover {
	__u64 epoch;
	__u32 host;
	__u32 reserved;
};

/* `blocks` */
struct block {
	__u32 home;
	__u32 movers; /* entries of `moved` in this block: with none, there is no need to look there
		       */
};

/* `ports`: who may send on a device. */
struct port {
	struct address stable;
};

/* `hosts`: how the underlay reaches a host. */
struct next_hop {
	__u64 trusted_until; /* CLOCK_MONOTONIC in ns: past it, `mac` is not used; 0: it is not
				known */
	__u32 ifindex;	     /* of the underlay device */
	__u8 mac[6];	     /* of the gateway */
	__u8 source[6];	     /* of the underlay device */
	__u8 gateway[16];    /* the next hop's address on that device */
};

/* Why a packet was refused: the index in `drops`. The name is what users see, in lower case and
 * without its first word. Add new ones at the end: the counters are pinned. */
enum drop_reason {
	DROP_NONE, /* carried; counted nowhere */

	/* what a machine sends that is not carried */
	DROP_VLAN_TAGGED,
	DROP_IPV4,
	DROP_ARP,
	DROP_ETHER_TYPE,	  /* neither IPv6, IPv4 nor ARP */
	DROP_UNKNOWN_PORT,	  /* the device has no identity in `ports` */
	DROP_MULTICAST,		  /* chatter of the link: duplicate address detection, MLD */
	DROP_FOREIGN_SOURCE,	  /* not the sender's own address */
	DROP_ROUTING_DESTINATION, /* a machine wrote a routing address */
	DROP_NO_EGRESS,		  /* a destination outside of the fleet */
	DROP_OTHER_NETWORK,	  /* source and destination are of different networks */
	DROP_NEIGHBOUR_DISCOVERY, /* ICMPv6 133 to 137 beyond the link */

	/* what cannot be read, or hides what it is */
	DROP_MALFORMED,		/* its headers contradict its length, or its protocol */
	DROP_ROUTING_HEADER,	/* would make its receiver send it on */
	DROP_EXTENSION_HEADERS, /* too many to look behind */

	/* addresses */
	DROP_INVALID_SOURCE,
	DROP_INVALID_DESTINATION,
	DROP_STABLE_SOURCE,	  /* on the underlay */
	DROP_STABLE_DESTINATION,  /* on the underlay */
	DROP_OWN_SOURCE,	  /* on the underlay, in this host's name */
	DROP_OUTSIDE_SOURCE,	  /* not of the fleet, and no error about what its receiver sent */
	DROP_CONTROL_DESTINATION, /* no local address, and led back to ip6d0 */
	DROP_STACK_DESTINATION,	  /* nothing that belongs into ip6d0 */

	/* where to */
	DROP_NETWORK_MISMATCH, /* the machine's entry is of another network than the address */
	DROP_NO_PORT,	       /* the machine is here and has no port */
	DROP_NO_STACK,	       /* for this host's endpoint, without ip6d0 */
	DROP_NOT_HERE,	       /* and no other place to go */
	DROP_LOOP,	       /* believed to be where it came from */
	DROP_ENDPOINT_RELAY,   /* an endpoint's, to be forwarded under another host's id */
	DROP_UNKNOWN_HOST,     /* not in `hosts` */
	DROP_NO_UNDERLAY,      /* the device to that host has gone */
	DROP_TOO_BIG,	       /* the host's own, for the underlay */
	DROP_FORWARDED,	       /* into ip6d0, from another device of this host */

	DROP_REASONS, /* how many there are */
};
