package config

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"ip6d/addr"
	"ip6d/api"
	"ip6d/nat"
)

// Surroundings is what a server says about itself where the configuration does not.
type Surroundings struct {
	Hostname  func() (string, error) // for name
	MachineID func() (string, error) // for identity
}

// Check returns the configuration that f means, with the defaults filled in. The error wraps ErrInvalid and tells of
// every value that is wrong: its field, the value, and what would be right.
func (f File) Check(s Surroundings) (Config, error) {
	var c checker
	checked := Config{
		Host:       addr.Host(c.number("host", f.Host, 1<<32-1, uint64(defaultHost))),
		Name:       c.name(f.Name, s.Hostname),
		Identity:   c.identity(f.Identity, s.MachineID),
		Cell:       addr.Cell(c.number("cell", f.Cell, uint64(addr.MaxCell), uint64(defaultCell))),
		Plan:       c.plan(f.Prefixes),
		StateDir:   c.path("state_dir", f.StateDir, DefaultStateDir),
		Socket:     c.socket(f.Socket),
		BPFDir:     c.path("bpf_dir", f.BPFDir, DefaultBPFDir),
		Cluster:    c.cluster(f.Store.Cluster),
		Sizes:      c.sizes(f.Sizes),
		Quarantine: c.duration("quarantine", f.Quarantine, DefaultQuarantine, "1h or 90s"),
		Slow:       c.duration("database.slow", f.Database.Slow, DefaultSlow, "100ms or 2s"),
		Audit:      c.audit(f.Audit),
		Metrics:    c.metrics(f.Metrics),
		LogLevel:   c.logLevel(f.LogLevel),
	}
	for i, e := range f.Store.Endpoints {
		checked.Endpoints = append(checked.Endpoints, c.endpoint(fmt.Sprintf("store.endpoints[%d]", i), e))
	}
	checked.API, checked.APIFiles = c.api(f.API)
	checked.StoreFiles = c.storeFiles(f.Store)
	c.underlay(&checked, f.Underlay)
	if !checked.Standalone() {
		if f.Host == "" {
			c.wrong("host", f.Host, "each host of a fleet needs a hardware id of its own, 1 to 4294967295")
		}
		if checked.UnderlayDevice == "" {
			c.wrong("underlay.device", f.Underlay.Device, "a host of a fleet needs the device that leads to the other hosts, and its address there")
		}
	}
	if err := errors.Join(c.errs...); err != nil {
		return Config{}, err
	}
	return checked, nil
}

// checker collects what is wrong.
type checker struct{ errs []error }

func (c *checker) wrong(field, value, right string) {
	c.errs = append(c.errs, fmt.Errorf("%w: %s %q: %s", ErrInvalid, field, value, right))
}

// number reads a number from 1 to high, in decimal or in hexadecimal after 0x.
func (c *checker) number(field, text string, high, otherwise uint64) uint64 {
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 0, 64)
	if err != nil || n < 1 || n > high {
		c.wrong(field, text, fmt.Sprintf("must be a number from 1 to %d", high))
	}
	return n
}

// maxName is the limit of a host's name and of its identity, in bytes: a DNS name fits (RFC 1035 section 2.3.4).
const maxName = 255

func isWord(s string) bool {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }
	return s != "" && len(s) <= maxName && !strings.ContainsFunc(s, bad)
}

func (c *checker) name(text string, hostname func() (string, error)) string {
	if text == "" {
		var err error
		if text, err = hostname(); err != nil {
			c.wrong("name", "", fmt.Sprintf("the system has no host name (%v); give one", err))
			return ""
		}
	}
	_, err := addr.ParseHost(text)
	switch {
	case err == nil:
		c.wrong("name", text, "is a number, which commands would take for a host id; give a name with a letter")
	case !isWord(text):
		c.wrong("name", text, fmt.Sprintf("must be 1 to %d bytes of printable characters without space", maxName))
	}
	return text
}

func (c *checker) identity(text string, machineID func() (string, error)) string {
	if text == "" {
		id, err := machineID()
		if err == nil && id == "" {
			err = errors.New("it is empty")
		}
		if err != nil {
			c.wrong("identity", "", fmt.Sprintf("the machine id does not serve as one (%v); run systemd-machine-id-setup, or give an identity that no other server has", err))
			return ""
		}
		text = id
	}
	if !isWord(text) {
		c.wrong("identity", text, fmt.Sprintf("must be 1 to %d bytes of printable characters without space", maxName))
	}
	return text
}

func (c *checker) plan(p Prefixes) addr.Plan {
	stable, routing := addr.DefaultPlan.StablePrefix(), addr.DefaultPlan.RoutingPrefix()
	ok := c.prefix("prefixes.stable", p.Stable, &stable) && c.prefix("prefixes.routing", p.Routing, &routing)
	if !ok {
		return addr.DefaultPlan
	}
	plan, err := addr.NewPlan(stable, routing)
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%w: prefixes: %w", ErrInvalid, err))
	}
	return plan
}

func (c *checker) prefix(field, text string, p *netip.Prefix) bool {
	if text == "" {
		return true
	}
	parsed, err := netip.ParsePrefix(text)
	if err != nil {
		c.wrong(field, text, "must be an IPv6 prefix such as fdaa::/16")
		return false
	}
	*p = parsed
	return true
}

func (c *checker) path(field, text, otherwise string) string {
	text = cmp.Or(text, otherwise)
	if !filepath.IsAbs(text) || strings.ContainsRune(text, 0) {
		c.wrong(field, text, "must be an absolute path")
	}
	return filepath.Clean(text)
}

// maxSocket is the longest path of a unix socket: sun_path has 108 bytes (unix(7)), of which the daemon needs a few for
// the name under which it makes the socket.
const maxSocket = 100

func (c *checker) socket(text string) string {
	path := c.path("socket", text, api.DefaultSocket)
	if len(path) > maxSocket {
		c.wrong("socket", path, fmt.Sprintf("has %d bytes, must have at most %d", len(path), maxSocket))
	}
	return path
}

// maxDevice is the longest name of a network device, in bytes: IFNAMSIZ without its end.
const maxDevice = 15

// The MTU of a mesh: of every IPv6 link (RFC 8200 section 5), and the largest that a device can have.
const (
	minMTU = 1280
	maxMTU = 65535
)

func (c *checker) underlay(to *Config, u Underlay) {
	if u == (Underlay{}) {
		return
	}
	port := uint16(c.number("underlay.port", u.Port, 1<<16-1, DefaultPort))
	switch u.Type {
	case "", "device":
		if u.Endpoint != "" {
			c.wrong("underlay.endpoint", u.Endpoint, "is for underlay.type wireguard only")
		}
		if u.MTU != "" {
			c.wrong("underlay.mtu", u.MTU, "is for underlay.type wireguard only; another device has its own, which ports follow")
		}
		to.UnderlayAddress = netip.AddrPortFrom(c.underlayAddress(to, u.Address), port)
	case "wireguard":
		if u.VerifyMAC != "" {
			c.wrong("underlay.verify_mac", u.VerifyMAC, "with underlay.type wireguard each host is known by its key; leave this out")
		}
		u.Device = cmp.Or(u.Device, DefaultWireGuard)
		if u.Address != "" {
			c.wrong("underlay.address", u.Address, "with underlay.type wireguard each host has an address by its id; leave this out")
		}
		to.UnderlayMTU = int(c.number("underlay.mtu", u.MTU, maxMTU, DefaultMTU))
		if to.UnderlayMTU < minMTU {
			c.wrong("underlay.mtu", u.MTU, fmt.Sprintf("must be a number from %d, which IPv6 needs, to %d", minMTU, maxMTU))
		}
		to.UnderlayEndpoint = c.underlayEndpoint(to, u.Endpoint)
		if control, err := to.Plan.Control(to.Host); err == nil { // else the host is wrong, and told already
			to.UnderlayAddress = netip.AddrPortFrom(control.Addr(), port)
		}
	default:
		c.wrong("underlay.type", u.Type, "must be device or wireguard")
	}
	if u.Device == "." || u.Device == ".." || len(u.Device) > maxDevice || !isWord(u.Device) || strings.ContainsAny(u.Device, "/:") {
		c.wrong("underlay.device", u.Device, fmt.Sprintf("must be the name of a network device, of 1 to %d bytes", maxDevice))
	}
	to.UnderlayDevice = u.Device
	to.VerifyMAC = c.yes("underlay.verify_mac", u.VerifyMAC)
}

func (c *checker) yes(field, text string) bool {
	if text != "" && text != "true" && text != "false" {
		c.wrong(field, text, "must be true or false")
	}
	return text == "true"
}

// underlayEndpoint reads where WireGuard of other hosts finds this one.
func (c *checker) underlayEndpoint(to *Config, text string) netip.AddrPort {
	e, err := netip.ParseAddrPort(text)
	a := e.Addr().Unmap()
	switch {
	case err != nil || e.Port() == 0:
		c.wrong("underlay.endpoint", text, "must be an address of this server and the UDP port for WireGuard, such as 192.0.2.1:51820 or [2001:db8::1]:51820")
	case a.Zone() != "" || !a.IsGlobalUnicast():
		c.wrong("underlay.endpoint", text, "must have a unicast address that the other hosts can reach, neither loopback nor link-local")
	case to.Plan.Form(a) != addr.FormInvalid:
		c.wrong("underlay.endpoint", text, fmt.Sprintf("is in the %s prefix of the fleet; WireGuard needs a way outside of it", to.Plan.Form(a)))
	}
	return netip.AddrPortFrom(a, e.Port())
}

func (c *checker) underlayAddress(to *Config, text string) netip.Addr {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || !a.Is6() || a.Is4In6():
		c.wrong("underlay.address", text, "must be this host's IPv6 address on the underlay, without its length")
	case a.Zone() != "" || !a.IsGlobalUnicast():
		c.wrong("underlay.address", text, "must be a unicast address that the other hosts can reach, neither loopback nor link-local")
	case to.Plan.Form(a) != addr.FormInvalid:
		c.wrong("underlay.address", text, fmt.Sprintf("is in the %s prefix of the fleet; the underlay has addresses of its own", to.Plan.Form(a)))
	}
	return a
}

func (c *checker) endpoint(field, text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		c.wrong(field, text, "must be the URL of an etcd member, such as http://[fd00::1]:2379")
	}
	return strings.TrimSuffix(text, "/")
}

var clusterName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

func (c *checker) cluster(text string) string {
	text = cmp.Or(text, DefaultCluster)
	if !clusterName.MatchString(text) {
		c.wrong("store.cluster", text, "must be 1 to 64 letters, digits, dots, dashes or underscores, the first a letter or a digit")
	}
	return text
}

func (c *checker) sizes(f Sizes) nat.Sizes {
	size := func(name, text string, most, otherwise int) int {
		return int(c.number("sizes."+name, text, uint64(most), uint64(otherwise)))
	}
	usual := nat.DefaultSizes()
	return nat.Sizes{
		Machines: size("machines", f.Machines, nat.MaxMachines, usual.Machines),
		Blocks:   size("blocks", f.Blocks, nat.MaxBlocks, usual.Blocks),
		Hosts:    size("hosts", f.Hosts, nat.MaxHosts, usual.Hosts),
	}
}

func (c *checker) duration(field, text string, otherwise time.Duration, such string) time.Duration {
	if text == "" {
		return otherwise
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		c.wrong(field, text, "must be a duration above zero, such as "+such)
	}
	return d
}

func (c *checker) audit(text string) time.Duration {
	if text == "" {
		return DefaultAudit
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 || d > 0 && d < time.Second {
		c.wrong("audit", text, "must be a duration of at least 1s, such as 10m, or 0 for none")
	}
	return d
}

func (c *checker) metrics(text string) netip.AddrPort {
	if text == "" {
		return netip.AddrPort{}
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Port() == 0 {
		c.wrong("metrics", text, "must be an address and a port, such as [::1]:9446")
	}
	return a
}

func (c *checker) logLevel(text string) slog.Level {
	levels := map[string]slog.Level{"": slog.LevelInfo, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	l, ok := levels[text]
	if !ok {
		c.wrong("log_level", text, "must be debug, info, warn or error")
	}
	return l
}
