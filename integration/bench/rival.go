package main

import "errors"

// The rivals do the job of a host of a line: the machine keeps its address, the underlay sees another one. Each is set
// up as its documentation says, with the fewest rules and entries that do it, in scripts with the words that host.words
// fills in.

// plain is what the kernel does with addresses that need no translation.
func plain(_ *path, h *host) error { return h.ip(h.words("route add REMOTE via PEER dev underlay\n")) }

// translations are what both kinds of nft rules look up.
const translations = `
	map out_source { type ipv6_addr : ipv6_addr; elements = { MACHINE : MACHINE_ROUTING }; }
	map out_destination { type ipv6_addr : ipv6_addr; elements = { REMOTE : REMOTE_ROUTING }; }
	map in_source { type ipv6_addr : ipv6_addr; elements = { REMOTE_ROUTING : REMOTE }; }
	map in_destination { type ipv6_addr : ipv6_addr; elements = { MACHINE_ROUTING : MACHINE }; }
`

// nftStateless rewrites addresses before routing, without connection tracking, which nothing in the namespace asks for.
// The destination is first: where it is in no map the rule ends, and a neighbour solicitation keeps its source.
func nftStateless(_ *path, h *host) error {
	return errors.Join(h.toPeerPrefix(), h.nft(translations+`
	chain prerouting {
		type filter hook prerouting priority raw;
		iifname "PORT" ip6 daddr set ip6 daddr map @out_destination ip6 saddr set ip6 saddr map @out_source
		iifname "underlay" ip6 daddr set ip6 daddr map @in_destination ip6 saddr set ip6 saddr map @in_source
	}
`))
}

// nftNAT is network address translation, which tracks connections.
func nftNAT(_ *path, h *host) error {
	return errors.Join(h.toPeerPrefix(), h.nft(translations+`
	chain prerouting {
		type nat hook prerouting priority dstnat;
		iifname "PORT" dnat to ip6 daddr map @out_destination
		iifname "underlay" dnat to ip6 daddr map @in_destination
	}
	chain postrouting {
		type nat hook postrouting priority srcnat;
		oifname "underlay" snat to ip6 saddr map @out_source
		oifname "PORT" snat to ip6 saddr map @in_source
	}
`))
}

// npt is prefix translation (RFC 6296): the prefix of the network for that of a host, and back.
func npt(_ *path, h *host) error {
	return errors.Join(h.toPeerPrefix(), h.run(h.words(`*mangle
-A PREROUTING -i PORT -d REMOTE -j DNPT --src-pfx NETWORK/64 --dst-pfx PEER_NETWORK/64
-A POSTROUTING -o underlay -s MACHINE -j SNPT --src-pfx NETWORK/64 --dst-pfx OWN_NETWORK/64
-A PREROUTING -i underlay -d OWN_NETWORK/64 -j DNPT --src-pfx OWN_NETWORK/64 --dst-pfx NETWORK/64
-A POSTROUTING -o PORT -s PEER_NETWORK/64 -j SNPT --src-pfx PEER_NETWORK/64 --dst-pfx NETWORK/64
COMMIT
`), "ip6tables-restore"))
}

// vxlan puts the machines' packets, routed, into a tunnel between the hosts.
func vxlan(_ *path, h *host) error {
	return h.ip(h.words(`link add vxlan mtu 1500 type vxlan id 42 local HOST remote PEER dstport 4789 dev underlay
link set vxlan up
address add TUNNEL_OWN/64 dev vxlan
route add REMOTE via TUNNEL_PEER dev vxlan
`))
}

// srv6 puts the machines' packets behind a segment routing header (RFC 8986 section 4.6 takes it off).
func srv6(_ *path, h *host) error {
	return errors.Join(
		h.set("ipv6/conf/all/seg6_enabled", "1"),
		h.set("ipv6/conf/underlay/seg6_enabled", "1"),
		h.ip(h.words(`sr tunsrc set HOST
route add PEER_SEGMENT via PEER dev underlay
route add REMOTE encap seg6 mode encap segs PEER_SEGMENT dev underlay
route add OWN_SEGMENT encap seg6local action End.DT6 table main dev underlay
`)),
	)
}

// toPeerPrefix routes the other host's routing addresses to it.
func (h *host) toPeerPrefix() error {
	return h.ip(h.words("route add PEER_PREFIX via PEER dev underlay\n"))
}

func (h *host) nft(table string) error {
	return h.run(h.words("table ip6 translate {"+table+"}\n"), "nft", "-f", "-")
}
