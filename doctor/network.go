package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"go4.org/netipx"
	"golang.org/x/sys/unix"

	"ip6d/host"
)

// leastMTU is what every IPv6 link carries (RFC 8200 section 5).
const leastMTU = 1280

// mesh reports whether the underlay is a WireGuard mesh, which the daemon makes.
func (o Options) mesh() bool { return o.Config.UnderlayEndpoint.IsValid() }

// underlay looks at the device that leads to the other hosts.
func (o Options) underlay() []Finding {
	name := o.Config.UnderlayDevice
	if name == "" {
		return []Finding{{Check: "underlay", Severity: OK, Value: "none: a host on its own"}}
	}
	l, err := netlink.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		if o.mesh() && !o.running() {
			return []Finding{{Check: "underlay", Severity: Info, Value: name + " is not there: the daemon makes it"}}
		}
		return []Finding{{"underlay", Error, name + " is not there", "make it, or set underlay.device; `ip link` shows those of this host"}}
	}
	if err != nil {
		return []Finding{fromError("underlay", "", err)}
	}
	at := l.Attrs()
	all := []Finding{{Check: "underlay", Severity: OK, Value: name + " is up"}}
	if at.Flags&net.FlagUp == 0 {
		all[0] = Finding{"underlay", Error, name + " is down", "ip link set " + name + " up"}
	} else if at.OperState == netlink.OperDown || at.OperState == netlink.OperLowerLayerDown {
		all[0] = Finding{"underlay", Error, name + " has no carrier", "connect it: its cable, its bond or its bridge"}
	}
	mtu := Finding{Check: "underlay MTU", Severity: OK, Value: fmt.Sprint(at.MTU)}
	if at.MTU < leastMTU {
		mtu.Severity, mtu.Remedy = Error, fmt.Sprintf("ip link set %s mtu %d or more: IPv6 needs it", name, leastMTU)
	}
	return append(all, mtu, hasAddress(l, o.Config.UnderlayAddress.Addr()))
}

func hasAddress(l netlink.Link, want netip.Addr) Finding {
	const check = "underlay address"
	addresses, err := netlink.AddrList(l, unix.AF_INET6)
	if err != nil {
		return fromError(check, "", err)
	}
	for _, a := range addresses {
		if ip, ok := netip.AddrFromSlice(a.IP); !ok || ip != want {
			continue
		}
		switch {
		case a.Flags&unix.IFA_F_DADFAILED != 0:
			return Finding{check, Error, want.String() + " is another's, too: duplicate address detection failed", "give each host an address of its own"}
		case a.Flags&unix.IFA_F_TENTATIVE != 0:
			return Finding{check, Warning, want.String() + " is tentative: duplicate address detection has not ended", "look again in a few seconds; without a carrier it never ends"}
		}
		return Finding{Check: check, Severity: OK, Value: want.String()}
	}
	return Finding{check, Error, fmt.Sprintf("%s does not have %s", l.Attrs().Name, want), fmt.Sprintf("ip -6 addr add %s/64 dev %s, with the prefix length of that link; or set underlay.address", want, l.Attrs().Name)}
}

// sysctls looks at what the stack has to do for IPv6.
func (o Options) sysctls() []Finding {
	get := func(device, name string) string {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", device, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	var all []Finding
	devices := []string{"all"}
	if u := o.Config.UnderlayDevice; u != "" {
		devices = append(devices, u)
	}
	for _, device := range devices {
		if get(device, "disable_ipv6") == "1" {
			all = append(all, Finding{"IPv6", Error, "is disabled on " + device, fmt.Sprintf("sysctl -w net/ipv6/conf/%s/disable_ipv6=0", device)})
		}
	}
	switch forwarding := get("all", "forwarding"); {
	case forwarding == "1":
		return append(all, Finding{Check: "forwarding", Severity: OK, Value: "is on"})
	case !o.running():
		return append(all, Finding{Check: "forwarding", Severity: Info, Value: "is off: the daemon switches it on"})
	}
	return append(all, Finding{"forwarding", Error, "is off", "sysctl -w net.ipv6.conf.all.forwarding=1, and find out what switched it off; the daemon does it only when it starts"})
}

// routes looks for those that lead packets of the fleet elsewhere.
func (o Options) routes() Finding {
	const check = "routes"
	all, err := netlink.RouteListFiltered(unix.AF_INET6, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fromError(check, "", err)
	}
	prefixes := []netip.Prefix{o.Config.Plan.StablePrefix(), o.Config.Plan.RoutingPrefix()}
	var found, remedies []string
	for _, r := range all {
		to, ok := netip.Prefix{}, false
		if r.Dst != nil {
			to, ok = netipx.FromStdIPNet(r.Dst)
		}
		// The kernel makes those of addresses, also of ip6d0's and the mesh's.
		ours := r.Protocol == host.RouteProtocol || r.Protocol == unix.RTPROT_KERNEL || r.Table == unix.RT_TABLE_LOCAL
		if !ok || ours {
			continue
		}
		for _, p := range prefixes {
			if p.Overlaps(to) && to.Bits() >= p.Bits() {
				found = append(found, fmt.Sprintf("%s in table %d", to, r.Table))
				remedies = append(remedies, fmt.Sprintf("ip -6 route del %s table %d", to, r.Table))
			}
		}
	}
	if found != nil {
		return Finding{check, Warning, "not ip6d's, and in its prefixes: " + strings.Join(found, ", "), strings.Join(remedies, "; ") + "; or choose other prefixes"}
	}
	return Finding{Check: check, Severity: OK, Value: "none of others in the fleet's prefixes"}
}

// programs looks at what else sees packets on the underlay.
func (o Options) programs() []Finding {
	const check = "programs on the underlay"
	l, err := netlink.LinkByName(o.Config.UnderlayDevice)
	if err != nil {
		return nil // told already, or there is none
	}
	var all []Finding
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		all = append(all, Finding{check, Info, fmt.Sprintf("an XDP program, %d, sees packets before ip6d", x.ProgId), "make sure that it passes IPv6 to the fleet's prefixes"})
	}
	attached := false
	for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: l.Attrs().Index, Attach: hook})
		if err != nil {
			continue // no TCX, or not allowed: told already
		}
		for _, p := range result.Programs {
			name := programName(p.ID)
			if strings.HasPrefix(name, "from_underlay") || strings.HasPrefix(name, "to_underlay") {
				attached = true
				break
			}
			all = append(all, Finding{check, Warning, fmt.Sprintf("%s (%s) sees packets before ip6d", name, hook), "attach it after ip6d's, or make sure that it lets all IPv6 of the fleet pass"})
		}
	}
	if !attached && o.running() && tcx().Value == "are attached by TCX" {
		all = append(all, Finding{check, Error, "ip6d's are not attached to " + o.Config.UnderlayDevice, "look at the daemon's log; it attaches them every 10 s"})
	}
	if all == nil {
		all = []Finding{{Check: check, Severity: OK, Value: "nothing sees packets before ip6d"}}
	}
	return all
}

func programName(id ebpf.ProgramID) string {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return fmt.Sprintf("program %d", id)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name == "" {
		return fmt.Sprintf("program %d", id)
	}
	return info.Name
}

// firewall tells what the daemon has found, or looks itself where there is none.
func (o Options) firewall() []Finding {
	const check = "firewall"
	var warnings []string
	if o.running() {
		warnings = o.Daemon.Firewall
	} else {
		agent, err := host.New(host.Options{Plan: o.Config.Plan, Host: o.Config.Host})
		if err != nil {
			return []Finding{fromError(check, "", err)}
		}
		defer agent.Close()
		warnings = agent.FirewallWarnings()
	}
	var all []Finding
	for _, w := range warnings {
		all = append(all, Finding{check, Warning, w, "docs/FIREWALL.md"})
	}
	if all == nil {
		all = []Finding{{Check: check, Severity: OK, Value: "stops nothing that the datapath needs"}}
	}
	return all
}
