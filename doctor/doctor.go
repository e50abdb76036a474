// Package doctor looks at a host for what keeps ip6d from serving it, before the daemon is started and while it runs. It
// changes nothing. What it finds it tells as findings: what was looked at, its value, how bad that is, and the way out.
package doctor

import (
	"context"
	"fmt"
	"slices"

	"ip6d/config"
	"ip6d/hwmap"
)

// Severity is how bad a finding is.
type Severity string

const (
	OK      Severity = "ok"
	Info    Severity = "info"    // nothing is wrong, and this could not be told, or is good to know
	Warning Severity = "warning" // it works, but not in every case, or not for long
	Error   Severity = "error"   // it does not work
)

var severities = []Severity{OK, Info, Warning, Error}

// Finding is what was found of one thing.
type Finding struct {
	Check    string   `json:"check"` // what was looked at, a word or two
	Severity Severity `json:"severity"`
	Value    string   `json:"value"`            // what was found
	Remedy   string   `json:"remedy,omitempty"` // the way out
}

// Worst returns the highest severity of the findings.
func Worst(findings []Finding) Severity {
	worst := OK
	for _, f := range findings {
		if slices.Index(severities, f.Severity) > slices.Index(severities, worst) {
			worst = f.Severity
		}
	}
	return worst
}

// Daemon is what the host's daemon says of itself.
type Daemon struct {
	Version    string
	Following  bool
	StoreError string
	Fenced     bool     // it carries nothing: it was declared dead
	Suspect    string   // why its database may be an older copy; empty: it is not
	Firewall   []string // what the firewall stops
	Hosts      []hwmap.Host
}

// Options say which host to look at.
type Options struct {
	Config  config.Config
	Version string  // of this program
	Daemon  *Daemon // nil: it is not running
}

// Examine looks at everything, in the network namespace of the caller.
func Examine(ctx context.Context, o Options) []Finding {
	var all []Finding
	add := func(more ...Finding) { all = append(all, more...) }
	add(o.daemon()...)
	add(kernel(o.Config.BPFDir)...)
	add(o.state()...)
	add(o.identity())
	add(o.underlay()...)
	add(o.sysctls()...)
	add(o.routes())
	add(o.programs()...)
	add(o.firewall()...)
	found, hosts := o.store(ctx)
	add(found...)
	if hosts == nil && o.Daemon != nil {
		hosts = o.Daemon.Hosts
	}
	add(o.hosts(ctx, hosts)...)
	return all
}

func (o Options) running() bool { return o.Daemon != nil }

func (o Options) daemon() []Finding {
	f := Finding{Check: "daemon", Severity: OK, Value: "runs, version " + o.Version}
	switch d := o.Daemon; {
	case d == nil:
		return []Finding{{Check: "daemon", Severity: Info, Value: "is not running", Remedy: "start it: systemctl start ip6d"}}
	case d.Version != o.Version:
		f.Severity, f.Value = Warning, "runs, version "+d.Version+"; this program is "+o.Version
		f.Remedy = "restart the daemon: packets flow meanwhile"
	}
	all := []Finding{f}
	if o.Daemon.Fenced {
		all = append(all, Finding{Check: "fence", Severity: Error, Value: "this host was declared dead, and carries nothing",
			Remedy: fmt.Sprintf("if it is well: ip6d host revive %d, on any host", o.Config.Host)})
	}
	if why := o.Daemon.Suspect; why != "" {
		all = append(all, Finding{Check: "database", Severity: Error, Value: "may be an older copy, so nothing is issued or moved: " + why,
			Remedy: "see whether it was restored; then `ip6d db accept`"})
	}
	if d := o.Daemon; !d.Following && !o.Config.Standalone() {
		all = append(all, Finding{Check: "daemon follows store", Severity: Error, Value: "no: " + d.StoreError, Remedy: "see the findings about the store; packets flow meanwhile, by what was known"})
	}
	return all
}
