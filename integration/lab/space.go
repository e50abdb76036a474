package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/host/netns"
)

// space is a network namespace of the lab: a host, a machine, or the underlay.
type space struct {
	ns   *netns.Namespace
	link *netlink.Handle // talks to the kernel about the devices in it
}

// makeSpace makes a namespace with its loopback device up.
func (l *Lab) makeSpace(of string) (_ *space, err error) {
	ns, err := netns.Create(l.o.namespace(of))
	if err != nil {
		return nil, err
	}
	s := &space{ns: ns}
	l.spaces = append(l.spaces, s)
	return s, s.open()
}

// open makes the namespace ready for use.
func (s *space) open() error {
	err := s.ns.Do(func() (err error) {
		s.link, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("open netlink in %s: %w", s.ns, err)
	}
	// Nobody else can have these addresses, and to find that out takes a second (RFC 4862 section 5.4).
	for _, conf := range []string{"all", "default"} {
		if err := s.setting("ipv6/conf/"+conf+"/accept_dad", "0"); err != nil {
			return err
		}
	}
	return s.configure("lo")
}

// configure gives a device addresses and sets it up.
func (s *space) configure(device string, addresses ...netip.Prefix) error {
	link, err := s.link.LinkByName(device)
	if err != nil {
		return fmt.Errorf("find device %s in %s: %w", device, s.ns, err)
	}
	if err := s.link.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up in %s: %w", device, s.ns, err)
	}
	for _, a := range addresses {
		address, err := netlink.ParseAddr(a.String())
		if err != nil {
			return err
		}
		address.Flags = unix.IFA_F_NODAD
		if err := s.link.AddrAdd(link, address); err != nil {
			return fmt.Errorf("add address %s to %s in %s: %w", a, device, s.ns, err)
		}
	}
	return nil
}

// setting sets a sysctl below net, such as ipv6/conf/all/forwarding.
func (s *space) setting(name, value string) error {
	return s.ns.Do(func() error {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
			return fmt.Errorf("set net/%s to %s in %s: %w", name, value, s.ns, err)
		}
		return nil
	})
}

// checksumFeatures are what the kernel calls transmit checksum offload of a veth.
func checksumFeatures() []string { return []string{"tx-checksum-ip-generic", "tx-checksum-sctp"} }

// computeChecksums makes the kernel compute checksums before a packet leaves by the device. With offload on, a veth leaves
// them out and vouches for them, and a translation that broke them would not show.
func (s *space) computeChecksums(device string) error {
	return s.ns.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return fmt.Errorf("open ethtool: %w", err)
		}
		defer e.Close()
		off := make(map[string]bool)
		for _, f := range checksumFeatures() {
			off[f] = false
		}
		if err := e.Change(device, off); err != nil {
			return fmt.Errorf("turn off checksum offload of %s in %s: %w", device, s.ns, err)
		}
		features, err := e.Features(device)
		if err != nil {
			return fmt.Errorf("read the features of %s in %s: %w", device, s.ns, err)
		}
		for f := range off {
			if features[f] {
				return fmt.Errorf("turn off checksum offload of %s in %s: %s is still on", device, s.ns, f)
			}
		}
		return nil
	})
}

func (s *space) close() error {
	if s.link != nil {
		s.link.Close()
	}
	return s.ns.Close()
}

func closeAll[T interface{ close() error }](all []T) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
