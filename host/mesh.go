package host

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"go4.org/netipx"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"ip6d/addr"
)

// checkMeshPeer refuses a host that cannot be a peer in the mesh.
func (a *Agent) checkMeshPeer(p Peer) error {
	if want := a.control(p.Host); p.Underlay != want {
		return fmt.Errorf("%w: host %d: underlay address %q: the underlay is WireGuard, in which it has %s; all hosts of a fleet need the same underlay.type", ErrInvalid, p.Host, p.Underlay, want)
	}
	key, err := wgtypes.ParseKey(p.Key)
	switch {
	case err != nil:
		return fmt.Errorf("%w: host %d: WireGuard key %q: must be 32 bytes in base64", ErrInvalid, p.Host, p.Key)
	case key == a.WireGuard.Key.key.PublicKey():
		return fmt.Errorf("%w: host %d has this host's WireGuard key; remove wireguard.key in the state_dir of the copy, and restart it", ErrInvalid, p.Host)
	case !p.Endpoint.IsValid() || p.Endpoint.Port() == 0 || p.Endpoint.Addr().IsUnspecified() || p.Endpoint.Addr().IsMulticast():
		return fmt.Errorf("%w: host %d: endpoint %q: must be an address and a UDP port", ErrInvalid, p.Host, p.Endpoint)
	case a.Plan.Form(p.Endpoint.Addr()) != addr.FormInvalid:
		return fmt.Errorf("%w: host %d: endpoint %s is a %s address, which is itself carried by the underlay", ErrInvalid, p.Host, p.Endpoint, a.Plan.Form(p.Endpoint.Addr()))
	}
	return nil
}

// greetingInterval has a peer of a new device sent a keepalive at once, and then hardly ever again. A peer that has a
// session with the device before this one goes on with it otherwise, for 15 s in which all that it sends is lost.
const greetingInterval = 65535 * time.Second // the most that there can be

// ensureMesh brings the device's peers to what SetHosts asked for. Peers that are right are not touched, so that their
// sessions go on. The caller holds mu.
func (a *Agent) ensureMesh() error {
	want := make(map[wgtypes.Key]Peer, len(a.peers))
	for _, p := range a.peers {
		key, err := wgtypes.ParseKey(p.Key)
		if err != nil {
			return err // checkMeshPeer has refused it
		}
		want[key] = p
	}
	greeting := greetingInterval
	var gone, changed []wgtypes.PeerConfig
	for _, now := range a.mesh {
		p, wanted := want[now.PublicKey]
		delete(want, now.PublicKey)
		if !wanted {
			delete(a.told, now.PublicKey)
			gone = append(gone, wgtypes.PeerConfig{PublicKey: now.PublicKey, Remove: true})
		} else if c, differs := a.mendPeer(now, p); differs {
			changed = append(changed, c)
		}
	}
	for _, key := range slices.SortedFunc(maps.Keys(want), func(x, y wgtypes.Key) int { return cmp.Compare(want[x].Host, want[y].Host) }) {
		c, _ := a.mendPeer(wgtypes.Peer{PublicKey: key}, want[key])
		if len(a.mesh) == 0 { // the device is new
			c.PersistentKeepaliveInterval = &greeting
		}
		changed = append(changed, c)
	}
	if len(gone)+len(changed) == 0 {
		return nil
	}
	// Those that go, first: a prefix belongs to the peer that was given it last.
	if err := a.kernel.changeWireGuard(a.Underlay, wgtypes.Config{Peers: append(gone, changed...)}); err != nil {
		a.told = nil
		return err
	}
	return nil
}

// mendPeer returns what makes a peer right, and whether anything does. The endpoint is set when the host publishes
// another one: in between WireGuard follows the peer to wherever it really sends from.
func (a *Agent) mendPeer(now wgtypes.Peer, p Peer) (c wgtypes.PeerConfig, differs bool) {
	c = wgtypes.PeerConfig{PublicKey: now.PublicKey}
	own := *netipx.PrefixIPNet(a.Plan.HostPrefix(p.Host))
	if len(now.AllowedIPs) != 1 || now.AllowedIPs[0].String() != own.String() {
		c.ReplaceAllowedIPs, c.AllowedIPs, differs = true, []net.IPNet{own}, true
	}
	endpoint := netip.AddrPortFrom(p.Endpoint.Addr().Unmap(), p.Endpoint.Port())
	if now.Endpoint == nil || a.told[now.PublicKey] != endpoint && udpAddress(now.Endpoint) != endpoint {
		c.Endpoint, differs = net.UDPAddrFromAddrPort(endpoint), true
	}
	if a.told == nil {
		a.told = make(map[wgtypes.Key]netip.AddrPort)
	}
	a.told[now.PublicKey] = endpoint
	return c, differs
}

func udpAddress(a *net.UDPAddr) netip.AddrPort {
	p := a.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// dropTwins takes out of peers those whose key another host has, and tells of them: WireGuard would take both for one.
func dropTwins(peers map[addr.Host]Peer) (errs error) {
	owner := make(map[string]addr.Host)
	for _, h := range slices.Sorted(maps.Keys(peers)) {
		key := peers[h].Key
		if first, taken := owner[key]; taken {
			delete(peers, h)
			errs = errors.Join(errs, fmt.Errorf("%w: hosts %d and %d have the same WireGuard key; remove wireguard.key in the state_dir of one, and restart it", ErrInvalid, first, h))
			continue
		}
		owner[key] = h
	}
	return errs
}
