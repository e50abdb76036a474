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
	__u8 verify_mac; /* 1: a neighbour may speak only as the host that its MAC is known of */
	__u8 port_probes;
	__u32 port_places; /* of `ports`: a power of two */
};

/* Key of `machines`. */
struct machine_id {
	__u32 machine;
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
	__u32 slot; /* of host in `hosts` */
};

/* `moved`, by block: machines whose host is not their block's home. A host's slot in two bytes, and
 * that of a machine by its number: where a million have moved, it is this that a packet's way costs, as
 * each page of memory more that is looked into is one more that the CPU does not know by heart. */
struct movers {
	__u16 slot[256]; /* one more than the slot in `hosts`; 0: at home */
};

/* `epochs`, by block: those of the entries in `moved`. No program reads them. */
struct epochs {
	__u64 epoch[256];
};

/* `blocks`, by number: those of this host's cell. */
struct block {
	__u32 home; /* 0: nobody is home of it, as far as is known here */
	__u32 slot; /* of home in `hosts` */
	/* how many of its machines have an entry in `moved`, and in `machines`: with none, there is no
	 * need to look there */
	__u32 moved;
	__u32 here;
};

/* `ports`: who may send on a device. Its place is its number modulo port_places, or one of the next
 * port_probes: devices get ascending numbers, so few meet at one place. */
struct port {
	struct address stable;
	__u32 ifindex; /* 0: the place is free */
	__u32 awaited; /* 1: the daemon waits for the machine to send */
};

/* Who is at the other end of the underlay's device. */
enum hop_kind {
	HOP_ROUTER = 1, /* a router, by whose MAC no host can be told */
	HOP_NEIGHBOUR,	/* the host itself */
	HOP_L3,		/* whoever the device finds: it has no link layer, as WireGuard */
} __attribute__((packed));

/* `hosts`, by slot: how the underlay reaches a host. A host has one slot for as long as anything
 * leads to it; `slots` has it by host. */
struct next_hop {
	__u32 host;
	__u32 ifindex;	  /* of the underlay device; 0: the way is not known */
	__u8 gateway[16]; /* the next hop's address on that device */
	__u8 source[6];	  /* of the underlay device */
	__u8 mac[6];	  /* of the gateway */
	enum hop_kind kind;
	__u8 reserved[3];
	/* in jiffies: past it, mac is not used; 0: it is not known. Written last, read last */
	__u64 trusted_until;
};

/* `fence`, its one entry: whom an operator declared dead. Mostly nobody, which one look tells. */
struct fence {
	__u32 closed; /* 1: this host itself. It carries nothing */
	__u32 dead;   /* how many hosts are in `dead`: with none, there is no need to look there */
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
	DROP_NEIGHBOUR_DISCOVERY, /* ICMPv6 133 to 137, but a solicitation of the gateway */

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
	DROP_HOP_LIMIT,	       /* used up; the sender is told */
	DROP_UNKNOWN_HOST,     /* not in `hosts` */
	DROP_NO_UNDERLAY,      /* the device to that host has gone */
	DROP_TOO_BIG,	       /* for the underlay or the port; the sender is told */
	DROP_FORWARDED, /* into ip6d0 or the underlay in this host's name, from another device */

	DROP_LINK_LOCAL,  /* from or to a link-local address, but the gateway's discovery */
	DROP_TUNNELLED,	  /* a packet in a packet, for a host's endpoint */
	DROP_FORGED_HOST, /* on the underlay, from a neighbour that is not the host it says */

	DROP_FOREIGN_ERROR, /* to a host's endpoint, about what it did not send to its sender */

	DROP_DEAD_HOST, /* on the underlay, from a host that was declared dead */
	DROP_FENCED,	/* this host was declared dead */

	DROP_REASONS, /* how many there are */
};

/* The way a packet came into the datapath; a constant in each program. */
enum way {
	FROM_MACHINE = 1,
	FROM_UNDERLAY,
	FROM_UNDERLAY_L3, /* a device without a link layer */
	FROM_STACK,
	FROM_ELSEWHERE, /* this host forwarded it for others */
	FROM_ELSEWHERE_L3,
} __attribute__((packed));

enum event_kind {
	EVENT_DROP = 1, /* a packet was refused */
	EVENT_ASTRAY,	/* a host sent a packet here for a machine that is not here */
	EVENT_SENT,	/* a machine sent something that the daemon waits for */
} __attribute__((packed));

/* What `events` carries. */
struct event {
	__u64 time;	       /* CLOCK_MONOTONIC_COARSE in ns */
	struct address source; /* as they were when the packet came; all zero where it is not */
	struct address destination; /* IPv6 or cannot be read */
	__u32 ifindex; /* of the device it came in by; of the one it left by, FROM_ELSEWHERE */
	__u32 length;  /* of the frame, in bytes; of all segments together */
	__u32 host; /* EVENT_ASTRAY: who sent it here, and is to read again where the machine is */
	enum drop_reason reason; /* EVENT_DROP */
	enum event_kind kind;
	enum way way;
	__u8 next_header; /* of the IPv6 header */
	__u8 hop_limit;
	__u32 reserved;
};

/* What `witness` remembers of this host's database. All zero: nothing. */
struct witness {
	__u8 id[16];
	__u64 count;	/* of its commits */
	__u32 block;	/* the highest that this host leased */
	__u32 reserved; /* 0 */
};

/* Which events were not sent: the index in `events_lost`. */
enum events_lost_cause {
	LOST_RING_FULL, /* nobody reads, or not fast enough */
	LOST_SAMPLED,	/* more than EVENT_BURST of one reason in about a second, on one CPU */
	LOST_CAUSES,
};
