package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Finding is a rule of the host's firewall that stops what has to come through to the host's stack.
type Finding struct {
	Family  string // of the table, as nft writes it: ip6 or inet
	Table   string
	Chain   string
	Handle  uint64
	Rule    string // about as nft writes it; an ellipsis stands for what is not looked at
	Stops   string // what it stops
	Remedy  string // a command that lets it pass
	Certain bool   // false: whether it does depends on what is not known here, such as marks
}

// String is the finding in one line.
func (f Finding) String() string {
	stops := "stops"
	if !f.Certain {
		stops = "may stop"
	}
	return fmt.Sprintf("rule %q (%s table %s, chain %s, handle %d) %s %s; let them pass before it: %s",
		f.Rule, f.Family, f.Table, f.Chain, f.Handle, stops, f.Stops, f.Remedy)
}

// Firewall looks through the rules of this host's firewall for those that stop what comes in by ip6d0 and has to be
// seen by the host's stack. It looks in the chains of the prerouting hook, and those that they jump to, where reverse
// path filters (`fib saddr . iif oif missing drop`, `-m rpfilter --invert -j DROP`) and strict addresses (`fib daddr .
// iif type != local drop`) are. It sees nftables, and what ip6tables puts there; not the tables of ip6tables-legacy, for
// which see LegacyTables.
func (a *Agent) Firewall() ([]Finding, error) {
	findings, err := a.firewall()
	if err != nil {
		return nil, fmt.Errorf("look through the firewall's rules: %w", err)
	}
	return findings, nil
}

func (a *Agent) firewall() ([]Finding, error) {
	a.mu.Lock()
	ifindex := a.stack.Ifindex
	a.mu.Unlock()
	rules, err := dump("routing rules", func() ([]netlink.Rule, error) { return a.kernel.RuleList(unix.AF_INET6) })
	if err != nil {
		return nil, err
	}
	marks := slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.Mark != 0 })
	var c *nftables.Conn
	err = a.ns.Do(func() (err error) { // WithNetNSFd panics where the kernel has no netfilter
		c, err = nftables.New(nftables.AsLasting())
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	chains, err := c.ListChains()
	if errors.Is(err, unix.EINVAL) { // this kernel was built without nftables
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var findings []Finding
	for _, p := range a.passages() {
		w := walker{conn: c, chains: chains, passage: p, ifindex: ifindex, marks: marks}
		for _, base := range chains {
			if base.Hooknum == nil || *base.Hooknum != *nftables.ChainHookPrerouting || familyName(base.Table.Family) == "" {
				continue
			}
			if _, err := w.walk(base, yes, nil); err != nil {
				return nil, fmt.Errorf("%s table %s: %w", familyName(base.Table.Family), base.Table.Name, err)
			}
		}
		findings = append(findings, w.findings...)
	}
	return findings, nil
}

// familyName is empty for families that no IPv6 packet meets at the prerouting hook.
func familyName(f nftables.TableFamily) string {
	switch f {
	case nftables.TableFamilyINet:
		return "inet"
	case nftables.TableFamilyIPv6:
		return "ip6"
	}
	return ""
}

// LegacyTables returns the tables of ip6tables-legacy that are in use and may filter by reverse path. Their rules cannot
// be seen here; `ip6tables-legacy-save` shows them.
func (a *Agent) LegacyTables() (tables []string, err error) {
	err = a.ns.Do(func() error {
		names, err := os.ReadFile("/proc/thread-self/net/ip6_tables_names")
		if errors.Is(err, os.ErrNotExist) { // the kernel has none
			return nil
		}
		for _, name := range strings.Fields(string(names)) {
			if name == "raw" || name == "mangle" {
				tables = append(tables, name)
			}
		}
		return err
	})
	return tables, err
}

// watchFirewall looks at the firewall at once and now and then until ctx ends, and logs what has changed.
func (a *Agent) watchFirewall(ctx context.Context) {
	tick := time.NewTicker(firewallIntervals * a.Interval)
	defer tick.Stop()
	var before []string
	for {
		now := a.FirewallWarnings()
		for _, w := range now {
			if !slices.Contains(before, w) {
				a.Logger.Warn(w)
			}
		}
		if len(before) > 0 && len(now) == 0 {
			a.Logger.Info("firewall lets everything pass that the datapath needs")
		}
		before = now
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// firewallIntervals is how much more seldom the firewall is looked at than all else: there may be thousands of rules.
const firewallIntervals = 6

// FirewallWarnings says in words what Firewall finds, or why it finds nothing. It is what Run logs, once.
func (a *Agent) FirewallWarnings() (all []string) {
	findings, err := a.Firewall()
	if err != nil {
		all = append(all, err.Error())
	}
	for _, f := range findings {
		all = append(all, f.String())
	}
	legacy, err := a.LegacyTables()
	if err != nil {
		all = append(all, err.Error())
	}
	for _, table := range legacy {
		all = append(all, fmt.Sprintf("rules of ip6tables-legacy are not looked through; if `ip6tables-legacy-save -t %[1]s` shows one with rpfilter: ip6tables-legacy -t %[1]s -I PREROUTING -i %[2]s -j ACCEPT", table, StackDevice))
	}
	return all
}
