package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ip6d/hwmap/etcd/etcdproc"
)

const (
	switchName    = "switch"
	switchBits    = 64
	etcdPort      = 2379
	wireGuardPort = 51820
)

// storeAddress is where etcd is: on the switch itself.
func storeAddress() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("fd00:6d::ffff"), etcdPort)
}

// underlayAddress is the address of a host on the underlay: its number at the end.
func underlayAddress(number int) netip.Addr {
	a := netip.MustParseAddr("fd00:6d::").As16()
	a[14], a[15] = byte(number>>8), byte(number)
	return netip.AddrFrom16(a)
}

// makeUnderlay makes the namespace with the switch.
func (l *Lab) makeUnderlay() error {
	s, err := l.makeSpace("underlay")
	if err != nil {
		return err
	}
	l.underlay = s
	// With snooping, neighbour discovery would not pass before somebody has queried for listeners.
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
	bridge.Name = switchName
	if err := s.link.LinkAdd(bridge); err != nil {
		return fmt.Errorf("make the underlay's switch: %w", err)
	}
	return s.configure(switchName, netip.PrefixFrom(storeAddress().Addr(), switchBits))
}

// wireGuardDevice is the name of a host's WireGuard device. All namespaces of the computer share the directory of the sockets
// that such devices are configured by, so no other lab may have the same name.
func (o Options) wireGuardDevice(number int) string {
	return fmt.Sprintf("wg%08x-%d", crc32.ChecksumIEEE([]byte(o.Name)), number)
}

// removeWireGuardSockets removes what WireGuard processes that were killed left.
func (o Options) removeWireGuardSockets() error {
	var errs []error
	for number := 1; number <= MaxHosts; number++ {
		err := os.Remove("/var/run/wireguard/" + o.wireGuardDevice(number) + ".sock")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// connect gives a host its device on the underlay.
func (l *Lab) connect(h *Host) error {
	veth := netlink.NewVeth(netlink.NewLinkAttrs())
	veth.Name = h.Name
	veth.PeerName = hostDevice
	veth.PeerNamespace = netlink.NsFd(h.space.ns.FD())
	if err := l.underlay.link.LinkAdd(veth); err != nil {
		return fmt.Errorf("connect %s to the underlay: %w", h.Name, err)
	}
	bridge, err := l.underlay.link.LinkByName(switchName)
	if err != nil {
		return fmt.Errorf("connect %s to the underlay: %w", h.Name, err)
	}
	if err := l.underlay.link.LinkSetMaster(veth, bridge); err != nil {
		return fmt.Errorf("connect %s to the underlay: %w", h.Name, err)
	}
	if err := l.underlay.configure(h.Name); err != nil {
		return err
	}
	return h.space.configure(hostDevice, netip.PrefixFrom(underlayAddress(h.Number), switchBits))
}

// StartStore starts etcd, on the data that it had before if it was stopped, and waits until it answers.
func (l *Lab) StartStore(ctx context.Context) error {
	cmd := etcdproc.Command(etcdproc.Options{
		Binary: l.o.Etcd,
		Dir:    filepath.Join(l.o.directory(), "etcd"),
		Listen: storeAddress(),
	})
	if err := os.MkdirAll(filepath.Join(l.o.directory(), "etcd"), 0o700); err != nil {
		return fmt.Errorf("start etcd: %w", err)
	}
	p, err := l.o.start("etcd", l.underlay.ns, cmd)
	if err != nil {
		return err
	}
	l.etcd = p
	return p.wait(ctx, l.storeHealth)
}

// StopStore kills etcd. Its data stay.
func (l *Lab) StopStore() error { return l.etcd.Kill() }

// storeHealth asks etcd whether it answers reads and writes.
func (l *Lab) storeHealth(ctx context.Context) error {
	client := http.Client{
		Timeout: 2 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			err = l.underlay.ns.Do(func() error {
				var d net.Dialer
				c, err = d.DialContext(ctx, network, address)
				return err
			})
			return c, err
		}},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+storeAddress().String()+"/health", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health of etcd: %s", answer.Status)
	}
	return nil
}

func (o Options) bpfDirectory() string { return filepath.Join(o.directory(), "bpf") }

// mountBPF mounts a BPF file system of the lab's own: when it goes, so do all pins.
func (l *Lab) mountBPF() error {
	dir := l.o.bpfDirectory()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount a BPF file system on %s: %w", dir, err)
	}
	return nil
}
