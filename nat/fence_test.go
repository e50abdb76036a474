package nat

import (
	"slices"
	"testing"

	"ip6d/addr"
	"ip6d/bpf"
)

// What an operator said of hosts holds while no daemon runs, and for the next one.
func TestDeadHostsAndTheFenceSurviveARestart(t *testing.T) {
	o := options(pinDir(t))
	d := open(t, o)
	for _, h := range []addr.Host{2, 7, 2} {
		ok(t, d.PutDead(h))
	}
	ok(t, d.PutDead(9))
	ok(t, d.DeleteDead(9))
	ok(t, d.DeleteDead(9))
	ok(t, d.SetFenced(true))
	check := func(what string, dead []addr.Host, fenced bool) {
		t.Helper()
		v, _, err := lookup[bpf.DatapathFence](d.objects.Fence, uint32(0))
		ok(t, err)
		if got := must(d.DeadHosts()); !slices.Equal(got, dead) || int(v.Dead) != len(dead) {
			t.Errorf("%s: dead hosts are %v, counted %d; want %v", what, got, v.Dead, dead)
		}
		if got := must(d.Fenced()); got != fenced {
			t.Errorf("%s: fenced is %v", what, got)
		}
	}
	check("at first", []addr.Host{2, 7}, true)
	ok(t, d.Close())
	d = open(t, o)
	check("after a restart", []addr.Host{2, 7}, true)

	// A crash between the two writes.
	ok(t, d.objects.Fence.Put(uint32(0), bpf.DatapathFence{Closed: 1, Dead: 0}))
	ok(t, d.Close())
	d = open(t, o)
	check("after a crash", []addr.Host{2, 7}, true)

	ok(t, d.SetFenced(false))
	for _, h := range []addr.Host{2, 7} {
		ok(t, d.DeleteDead(h))
	}
	check("revived", nil, false)
	for _, h := range []addr.Host{0, o.Host} {
		if err := d.PutDead(h); err == nil {
			t.Errorf("host %d is taken for a dead one", h)
		}
	}
}

func TestWhatADeadHostSendsGoesNowhereUntilItIsRevived(t *testing.T) {
	f := newAbused(t)
	ok(t, f.one.PutDead(2))
	w := watching(f.alice.eth0, f.bob.eth0, f.mallet.eth0, f.one.stack)
	send := f.two.underlay.rawSocket()
	to, self := routing(alice, 1), routing(endpoint(1, 1), 1)
	for name, sent := range map[string]frame{
		"a machine's":                    datagram(routing(remote, 2), to),
		"a machine's to the endpoint":    datagram(routing(remote, 2), self),
		"the endpoint's":                 datagram(routing(endpoint(1, 2), 2), to),
		"what it forwards for another":   datagram(routing(mover, 2), to),
		"its own error":                  message(control(2), to, timeExceeded, embedded(to, routing(remote, 2))...),
		"for a machine that is not here": datagram(routing(remote, 2), routing(ghost, 1)),
	} {
		w.refused(f.one, name, "dead_host", send, sent.between(f.two.underlay.mac, f.one.underlay.mac).marked().bytes())
	}
	// Another host's is carried, whatever link it came by.
	before := dropsOf(t, f.one.Datapath)["dead_host"]
	in := f.alice.eth0.capture()
	ok(t, send(datagram(routing(remote, 3), to).between(f.two.underlay.mac, f.one.underlay.mac).marked().bytes()))
	in.await("what another host sends", isMarked)
	if now := dropsOf(t, f.one.Datapath)["dead_host"]; now != before {
		t.Errorf("what host 3 sent was refused as a dead host's")
	}
	ok(t, f.one.DeleteDead(2))
	warm(f.alice, f.far)
}

func TestAFencedHostCarriesNothingUntilItIsRevived(t *testing.T) {
	f := newAbused(t)
	ok(t, f.one.SetFenced(true))
	ok(t, f.one.Close()) // and no daemon is needed for that
	w := watching(append(f.elsewhere(), f.alice.eth0, f.one.stack)...)
	guest, underlay := f.alice.eth0.rawSocket(), f.two.underlay.rawSocket()
	f.one.Datapath = f.one.open(f.one.options)
	for name, sent := range map[string]frame{
		"to a machine here":         datagram(alice.Addr(), bob.Addr()),
		"to a machine there":        datagram(alice.Addr(), remote.Addr()),
		"to the host's endpoint":    datagram(alice.Addr(), endpoint(1, 1).Addr()),
		"to another host's":         datagram(alice.Addr(), endpoint(1, 2).Addr()),
		"in the gateway's language": solicitation(linkLocal, solicitedNode, gatewayAddress),
	} {
		w.refused(f.one, name, "fenced", guest, sent.between(f.alice.eth0.mac, GatewayMAC()).marked().bytes())
	}
	for name, sent := range map[string]frame{
		"for a machine":      datagram(routing(remote, 2), routing(alice, 1)),
		"for one that left":  datagram(routing(remote, 2), routing(gone, 1)),
		"for the endpoint":   datagram(routing(remote, 2), routing(endpoint(1, 1), 1)),
		"an error about one": message(control(2), routing(alice, 1), timeExceeded, embedded(routing(alice, 1), routing(remote, 2))...),
	} {
		w.refused(f.one, name, "fenced", underlay, sent.between(f.two.underlay.mac, f.one.underlay.mac).marked().bytes())
	}
	ok(t, f.one.SetFenced(false))
	warm(f.alice, f.bob)
	warm(f.alice, f.far)
}
