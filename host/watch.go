package host

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// watch takes in what the kernel tells of changes, until ctx ends.
func (a *Agent) watch(ctx context.Context, s *nl.NetlinkSocket) error {
	for {
		messages, from, err := s.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			// There were more changes than the socket could hold, and some are lost.
			a.Logger.Debug("changes of the network were missed; looking at all of it")
			a.look()
			continue
		case err != nil:
			return fmt.Errorf("follow changes of the network: %w", err)
		case from.Pid != nl.PidKernel: // anybody may send to a netlink socket
			continue
		}
		for _, m := range messages {
			if err := a.see(m); err != nil {
				return err
			}
		}
	}
}

// subscribe opens a socket on which the kernel tells of changes.
func (k *kernel) subscribe() (s *nl.NetlinkSocket, err error) {
	err = k.ns.Do(func() error {
		s, err = nl.Subscribe(unix.NETLINK_ROUTE,
			unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV6_NETCONF)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to changes of the network: %w", err)
	}
	return s, nil
}

// look asks Run to look at everything soon.
func (a *Agent) look() {
	select {
	case a.kick <- struct{}{}:
	default: // asked already
	}
}

// see takes in one change. Most are only a cause to look; what does not concern ip6d, as on a host where
// containers come and go, is not even that.
func (a *Agent) see(m syscall.NetlinkMessage) error {
	concerns, gone := false, 0
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(m.Data) < unix.SizeofIfInfomsg {
			return nil
		}
		at := nl.DeserializeIfInfomsg(m.Data)
		name := attribute(m.Data[unix.SizeofIfInfomsg:], unix.IFLA_IFNAME)
		concerns = a.isOurs(int(at.Index)) || a.isOurName(nl.BytesToString(name))
		if m.Header.Type == unix.RTM_DELLINK && at.Family == unix.AF_UNSPEC { // a bridge tells of its ports in a family of its own
			gone = int(at.Index)
		}
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return nil
		}
		concerns = a.isOurs(int(nl.DeserializeIfAddrmsg(m.Data).Index))
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		if len(m.Data) < unix.SizeofRtMsg {
			return nil
		}
		device := attribute(m.Data[unix.SizeofRtMsg:], unix.RTA_OIF)
		concerns = nl.DeserializeRtMsg(m.Data).Protocol == RouteProtocol ||
			len(device) != 4 || a.isOurs(int(nl.NativeEndian().Uint32(device)))
	case unix.RTM_NEWNETCONF:
		if len(m.Data) < netconfSize {
			return nil
		}
		device := attribute(m.Data[netconfSize:], netconfIfindex)
		concerns = len(device) == 4 && int32(nl.NativeEndian().Uint32(device)) == netconfAll
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		if len(m.Data) < unix.SizeofNdMsg || m.Data[0] != unix.AF_INET6 {
			return nil
		}
		ifindex, address, n, err := parseNeighbour(m.Data)
		if err != nil {
			return err
		}
		if m.Header.Type == unix.RTM_DELNEIGH {
			n = neighbour{}
		}
		if concerns, err = a.seeNeighbour(ifindex, address, n); err != nil {
			a.Logger.Error("next hop not updated", "gateway", address, "error", err)
		}
	}
	if concerns {
		a.look()
	}
	if gone != 0 {
		a.portGone(gone)
	}
	return nil
}

// Of linux/netconf.h: how the kernel tells that forwarding was switched on or off.
const (
	netconfSize    = 4 // of struct netconfmsg, aligned
	netconfIfindex = 1
	netconfAll     = -1
)

// attribute returns the value of one attribute, or nil.
func attribute(b []byte, kind uint16) []byte {
	all, err := nl.ParseRouteAttrAsMap(b)
	if err != nil {
		return nil
	}
	return all[kind].Value
}

// isOurs reports whether the device is one that the agent looks after.
func (a *Agent) isOurs(ifindex int) bool {
	a.mu.Lock()
	ours := ifindex == a.underlay.ifindex || ifindex == a.stack.Ifindex || ifindex == a.stack.Peer
	a.mu.Unlock()
	if ours {
		return true
	}
	a.portsMu.Lock()
	defer a.portsMu.Unlock()
	_, ours = a.ports[ifindex]
	return ours
}

func (a *Agent) isOurName(name string) bool {
	return name != "" && (name == a.Underlay || name == StackDevice || name == stackPeer)
}
