package integration

import "ip6d/integration/lab"

// talk is streams both ways between two machines, at a pace that a busy computer bears.
type talk struct {
	f           *fleet
	mover       *lab.Machine
	there, back *lab.UDPStream
	tcp         *lab.TCPStream
	early, late uint64 // of the mover's guards, before

	excused func() uint64 // packets that something else than ip6d lost; nil: none
}

// pace is how fast a talk's streams are.
type pace struct {
	there, back int // UDP packets/s
	tcp         lab.TCPOptions
}

// startTalk starts them.
func (f *fleet) startTalk(peer, mover *lab.Machine) *talk {
	f.t.Helper()
	return f.startTalkAt(pace{there: 4000, back: 1000, tcp: lab.TCPOptions{Forth: 2e6, Back: 1e6}}, peer, mover)
}

func (f *fleet) startTalkAt(p pace, peer, mover *lab.Machine) *talk {
	f.t.Helper()
	f.must(peer.Ping(f.ctx, mover)) // right after the start, a host may not know a block yet
	k := &talk{f: f, mover: mover}
	k.early, k.late = k.guarded()
	var err error
	k.tcp, err = lab.StartTCP(f.ctx, peer, mover, p.tcp)
	f.must(err)
	k.there, err = lab.StartUDP(peer, mover, p.there)
	f.must(err)
	k.back, err = lab.StartUDP(mover, peer, p.back)
	f.must(err)
	return k
}

func (k *talk) guarded() (early, late uint64) {
	k.f.t.Helper()
	c, err := k.mover.Guarded()
	k.f.must(err)
	return c.Early.Total(), c.Late.Total()
}

// flow waits until packets have come all ways.
func (k *talk) flow() {
	k.f.t.Helper()
	k.f.must(k.there.WaitReceived(k.f.ctx, 1000), k.back.WaitReceived(k.f.ctx, 200), k.tcp.WaitReceived(k.f.ctx, 2e5))
}

// end stops the streams; nothing may have been lost, come twice, early or late, or broken.
func (k *talk) end() {
	k.f.t.Helper()
	tcp := k.tcp.Stop()
	if tcp.Broken != nil {
		k.f.t.Errorf("TCP broke: %v", tcp.Broken)
	}
	excused := uint64(0)
	if k.excused != nil {
		excused = k.excused()
	}
	for _, s := range []*lab.UDPStream{k.there, k.back} {
		r, err := s.Stop()
		if err != nil {
			k.f.t.Error(err)
		}
		if uint64(r.Lost) > excused || r.Duplicated+r.Foreign > 0 || r.SendError != nil {
			k.f.t.Errorf("UDP %s -> %s: of %d packets %d lost (%v...), %d twice, %d foreign, %v", r.From, r.To, r.Sent, r.Lost, r.Missing, r.Duplicated, r.Foreign, r.SendError)
		}
	}
	early, late := k.guarded()
	if early != k.early || late != k.late {
		k.f.t.Errorf("%d packets came to a port before the switchover to it, %d after the one away from it", early-k.early, late-k.late)
	}
}
