package hwmap_test

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"ip6d/addr"
	"ip6d/hwmap"
)

// Restart kills a daemon, which starts again.
func (l *life) Restart(t *rapid.T) {
	host := pick(t, "host", l.hosts(func(h addr.Host) bool { return !l.down[h] }))
	l.servers[host].kill()
	l.starts(host)
}

// Reboot reboots a host, whose daemon starts again.
func (l *life) Reboot(t *rapid.T) {
	host := pick(t, "host", l.hosts(nil))
	l.mu.Lock()
	lost := l.lost[host]
	l.mu.Unlock()
	l.servers[host].reboot()
	l.setLost(host, lost) // it may not hear yet that it is dead
	l.starts(host)
}

// Stop kills a daemon, which does not start again.
func (l *life) Stop(t *rapid.T) {
	host := pick(t, "host", l.hosts(l.up))
	l.servers[host].kill()
	l.down[host] = true
}

// Start starts one.
func (l *life) Start(t *rapid.T) {
	l.starts(pick(t, "host", l.hosts(func(h addr.Host) bool { return l.down[h] })))
}

func (l *life) startIfDown(host addr.Host) {
	if l.down[host] {
		l.starts(host)
	}
}

func (l *life) starts(host addr.Host) {
	l.t.Helper()
	l.servers[host].start()
	l.down[host] = false
	time.Sleep(time.Minute)
	l.attachAll(host)
}

// attachAll gives the machines of a host their ports, which a reboot took.
func (l *life) attachAll(host addr.Host) {
	l.t.Helper()
	if l.on(host).Status().Fenced {
		return
	}
	made, _ := l.servers[host].devices.content()
	for _, local := range l.servers[host].locals() {
		if local.Port == nil {
			continue
		}
		if _, there := made[local.Port.Device]; !there && (local.State == hwmap.Here || local.State == hwmap.Leaving) {
			l.must(l.call(host, attach(local.Name)))
		}
	}
}

// says has an operator say something about a host, on one that is up. Without the store nothing can be said.
func (l *life) says(t *rapid.T, what change, host addr.Host, then hwmap.HostState) {
	on := pick(t, "on", l.hosts(l.up))
	err := l.call(on, about(what, host))
	if l.outage.is() {
		if only(err, hwmap.ErrUnavailable) != nil || err == nil {
			l.t.Errorf("say of host %d, without the store, that it is %s: %v", host, then, err)
		}
		return
	}
	l.must(err)
	l.states[host] = then
	time.Sleep(time.Second)
}

// Cordon has a host take no machines.
func (l *life) Cordon(t *rapid.T) {
	l.says(t, (*hwmap.Map).Cordon, pick(t, "host", l.hosts(func(h addr.Host) bool { return l.states[h] == hwmap.Joined })), hwmap.Cordoned)
}

// Uncordon takes that back.
func (l *life) Uncordon(t *rapid.T) {
	l.says(t, (*hwmap.Map).Uncordon, pick(t, "host", l.hosts(func(h addr.Host) bool { return l.states[h] == hwmap.Cordoned })), hwmap.Joined)
}

// Drain moves every machine away from a host, and hands its blocks over.
func (l *life) Drain(t *rapid.T) {
	if !l.healthy() {
		t.Skip("a host is down, or the store")
	}
	host := pick(t, "host", l.hosts(func(h addr.Host) bool {
		return len(l.hosts(func(o addr.Host) bool { return o != h && l.takes(o) })) > 0
	}))
	targets := l.hosts(func(h addr.Host) bool { return h != host && l.takes(h) })
	l.say(targets[0], (*hwmap.Map).Cordon, host)
	l.states[host] = hwmap.Cordoned
	time.Sleep(time.Second)
	for _, m := range l.machines {
		l.stays(m)
	}
	for i, name := range l.living(func(m *lived) bool { return m.host == host }) {
		l.moves(l.machines[name], targets[i%len(targets)], 4)
	}
	for _, local := range l.servers[host].locals() {
		if local.State == hwmap.Away {
			l.tidyAway(host, local)
		}
	}
	l.handOver(host, 0)
	l.settled()
	l.leftBehind(host)
	for _, b := range l.view().blocks {
		if b.Home == host {
			l.t.Errorf("host %d was drained, and is home of %+v", host, b)
		}
	}
	for _, local := range l.servers[host].locals() {
		l.t.Errorf("host %d was drained, and has %+v", host, local)
	}
}

// Lose kills a host for good, as an operator says.
func (l *life) Lose(t *rapid.T) {
	if l.outage.is() || len(l.dead()) > 0 {
		t.Skip("one is enough")
	}
	host := pick(t, "host", l.hosts(func(h addr.Host) bool {
		return len(l.hosts(func(o addr.Host) bool { return o != h && l.takes(o) })) > 0
	}))
	on := l.hosts(func(h addr.Host) bool { return h != host && l.takes(h) })[0]
	l.lose(host, on)
	l.states[host], l.down[host] = hwmap.Dead, true
	time.Sleep(time.Second)
}

func (l *life) dead() []addr.Host {
	return l.hosts(func(h addr.Host) bool { return l.states[h] == hwmap.Dead })
}

// Adopt gives a dead host's blocks to another.
func (l *life) Adopt(t *rapid.T) {
	if l.outage.is() {
		t.Skip("the store is away")
	}
	from := pick(t, "dead host", l.dead())
	to := pick(t, "host", l.hosts(l.takes))
	l.must(l.call(to, adopt(from, to)))
	time.Sleep(time.Second)
}

// Claim takes machines of a dead host.
func (l *life) Claim(t *rapid.T) {
	if l.outage.is() {
		t.Skip("the store is away")
	}
	blocks := l.view().blocks
	names := l.living(func(m *lived) bool {
		return l.states[m.host] == hwmap.Dead && l.states[blocks[m.number.Block()].Home] != hwmap.Dead
	})
	on := pick(t, "host", l.hosts(l.takes))
	if len(names) == 0 {
		t.Skip("there is none to claim")
	}
	for _, name := range names[:rapid.IntRange(1, len(names)).Draw(t, "machines")] {
		m := l.machines[name]
		l.must(l.call(on, claim(name, m.number)))
		l.must(l.call(on, attach(name)))
		local := l.servers[on].local(m.number)
		if local.Epoch <= m.epoch {
			l.t.Errorf("%+v was claimed, and is %+v", *m, local)
		}
		m.host, m.epoch = on, local.Epoch
	}
}

// Unfreeze lets ids of adopted blocks be issued again, once no machine would be lost by it.
func (l *life) Unfreeze(t *rapid.T) {
	if l.outage.is() {
		t.Skip("the store is away")
	}
	view := l.view()
	home := pick(t, "home", l.hosts(func(h addr.Host) bool {
		frozen := false
		for number, b := range view.blocks {
			if b.Home != h || !b.Frozen {
				continue
			}
			frozen = true
			for _, m := range l.machines {
				if _, recorded := view.machines[m.number]; m.number.Block() == number && !recorded {
					return false
				}
			}
		}
		return frozen
	}))
	on := pick(t, "on", l.hosts(l.up))
	l.must(l.call(on, unfreeze(home)))
}

// Revive takes back that a host is dead.
func (l *life) Revive(t *rapid.T) {
	if l.outage.is() {
		t.Skip("the store is away")
	}
	l.revive(pick(t, "dead host", l.dead()))
}

func (l *life) revive(host addr.Host) {
	l.t.Helper()
	l.startIfDown(host)
	others := l.hosts(l.up)
	if len(others) == 0 {
		return
	}
	l.say(others[0], (*hwmap.Map).Revive, host)
	l.states[host] = hwmap.Cordoned
	l.insist(fmt.Sprintf("wait for host %d to carry packets", host), func() error {
		if l.on(host).Status().Fenced {
			return hwmap.ErrFenced
		}
		return nil
	})
	l.attachAll(host)
}
