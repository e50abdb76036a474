package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

func TestModulesComeAfterWhatTheyNeed(t *testing.T) {
	k := &kernel{modules: map[string]module{
		"bridge":         {name: "bridge", needs: []string{"llc", "stp"}},
		"stp":            {name: "stp", needs: []string{"llc"}},
		"llc":            {name: "llc"},
		"vxlan":          {name: "vxlan", needs: []string{"udp_tunnel", "built_in"}},
		"udp_tunnel":     {name: "udp_tunnel"},
		"asked_by_noone": {name: "asked_by_noone"},
	}}
	var got []string
	for _, m := range k.order([]string{"bridge", "vxlan", "built_in", "llc"}) {
		got = append(got, m.name)
	}
	if want := []string{"llc", "stp", "bridge", "udp_tunnel", "vxlan"}; !slices.Equal(got, want) {
		t.Errorf("order is %v, want %v", got, want)
	}
}

func TestEventsSayHowThePackagesEnded(t *testing.T) {
	const (
		kernel = "\n\x02kernel 6.1.0-56-cloud-amd64\n"
		start  = "\n\x02start nat\n"
		passes = "\x16=== RUN   TestPasses\n\x16--- PASS: TestPasses (0.01s)\n\x16PASS\n"
		end    = "\n\x02end 0\n"
		done   = "\n\x02done \n"
	)
	for _, c := range []struct {
		name, output string
		ends         []string // of packages
		done         bool
	}{
		{"all pass", kernel + start + passes + end + strings.ReplaceAll(start, "nat", "host") + passes + end + done,
			[]string{"pass ip6d/nat", "pass ip6d/host"}, true},
		{"they pass and then crash", kernel + start + passes + "\n\x02end exit status 2\n" + done, []string{"fail ip6d/nat"}, true},
		{"they crash", kernel + start + "panic: no\n\n\x02end exit status 2\n" + done, []string{"fail ip6d/nat"}, true},
		{"the machine crashes", kernel + start + "\x16=== RUN   TestPasses\nhello", []string{"fail ip6d/nat"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var events bytes.Buffer
			l := listener{module: "ip6d", events: &events}
			if err := l.listen(t.Context(), strings.NewReader(c.output)); err != nil {
				t.Fatal(err)
			}
			if l.done != c.done || l.release != "6.1.0-56-cloud-amd64" {
				t.Errorf("done is %v, and the kernel %q", l.done, l.release)
			}
			var ends []string
			for d := json.NewDecoder(&events); d.More(); {
				var e struct{ Action, Package, Test string }
				if err := d.Decode(&e); err != nil {
					t.Fatal(err)
				}
				if e.Test == "" && (e.Action == "pass" || e.Action == "fail") {
					ends = append(ends, e.Action+" "+e.Package)
				}
			}
			if !slices.Equal(ends, c.ends) {
				t.Errorf("packages ended %v, want %v", ends, c.ends)
			}
		})
	}
}

func TestUnknownReportsOfInitAreErrors(t *testing.T) {
	var l listener
	if err := l.listen(t.Context(), strings.NewReader("\x02dance 1\n")); err == nil || !strings.Contains(err.Error(), "dance") {
		t.Errorf("error %v", err)
	}
}
