package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	"ip6d/addr"
	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/hwmap"
)

// What the operator does to hosts; they are only counted.
const (
	opDrain  kind = "drain"
	opRevive kind = "lose and revive"
)

// operatorPatience bounds each thing that the operator does: members are killed and daemons die while he does it.
const operatorPatience = time.Minute

// operate drains hosts and loses them, one at a time, until ctx ends.
func (s *soak) operate(ctx context.Context) {
	r := s.random(streamOperator)
	for {
		h, by := s.hosts[r.IntN(hosts)], 1+r.IntN(hosts-1)
		other := s.hosts[(int(h.id)-1+by)%hosts]
		loses, kills, wait := r.IntN(2) == 0, r.IntN(2) == 0, time.Duration(2+r.IntN(8))*time.Second
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		s.operating.Lock() // not while the store is away: there is nothing that he could do
		var err error
		kind := opDrain
		if loses {
			kind = opRevive
			err = s.lose(ctx, h, other, kills)
		} else {
			err = s.drain(ctx, h, other)
		}
		s.operating.Unlock()
		result := done
		if err != nil {
			result = unknown
			s.say("%s of host %d: %v", kind, h.id, err)
		}
		s.history.count(kind, result)
	}
}

// insist calls try until it succeeds. Errors: that of ctx, or that of try after all the patience.
func (s *soak) insist(ctx context.Context, what string, try func(context.Context) error) error {
	patient, cancel := context.WithTimeout(ctx, operatorPatience)
	defer cancel()
	for {
		once, end := context.WithTimeout(patient, callTimeout)
		err := try(once)
		end()
		if err == nil {
			return nil
		}
		select {
		case <-patient.Done():
			return fmt.Errorf("%s: %w (%w)", what, patient.Err(), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// drain empties a host and hands its blocks over; then it takes machines again.
func (s *soak) drain(ctx context.Context, h, other *host) error {
	s.say("drain host %d", h.id)
	name := fmt.Sprint(h.id)
	err := s.insist(ctx, "cordon", func(ctx context.Context) error {
		_, err := other.client.Hosts.CordonHost(ctx, connect.NewRequest(&ip6dv1.CordonHostRequest{Host: name}))
		return err
	})
	if err == nil {
		err = s.insist(ctx, "hand over", func(ctx context.Context) error {
			if err := s.empty(ctx, h, other); err != nil {
				return err
			}
			_, err := h.client.Hosts.HandOverBlocks(ctx, connect.NewRequest(&ip6dv1.HandOverBlocksRequest{}))
			return err
		})
	}
	return errors.Join(err, s.uncordon(ctx, h, other))
}

// empty moves what is on a host to another one, and ends what has begun.
func (s *soak) empty(ctx context.Context, h, other *host) error {
	r, err := h.client.Machines.ListMachines(ctx, connect.NewRequest(&ip6dv1.ListMachinesRequest{}))
	if err != nil {
		return err
	}
	for _, m := range r.Msg.Machines {
		if m.State == ip6dv1.MachineState_MACHINE_STATE_HERE {
			l := life{soak: s, ctx: ctx, client: 600, name: m.Name, at: h.id}
			l.move(move{skip: (other.id + hosts - h.id) % hosts, abortOn: -1, beside: len(besides)})
		} else {
			_ = s.tidyMachine(ctx, h.id, m) // it says what it found
		}
	}
	return nil
}

// uncordon lets a host take machines again, and waits until it can.
func (s *soak) uncordon(ctx context.Context, h, other *host) error {
	err := s.insist(ctx, "uncordon", func(ctx context.Context) error {
		_, err := other.client.Hosts.UncordonHost(ctx, connect.NewRequest(&ip6dv1.UncordonHostRequest{Host: fmt.Sprint(h.id)}))
		return err
	})
	if err != nil {
		return err
	}
	return s.insist(ctx, "lease a block", func(ctx context.Context) error {
		r, err := h.client.Hosts.GetStatus(ctx, connect.NewRequest(&ip6dv1.GetStatusRequest{}))
		if err == nil && r.Msg.IdsFree == 0 {
			err = errors.New("it has no free id")
		}
		return err
	})
}

// lose cuts a host off, or has its daemon die too, and declares it dead. Others get its blocks and some of its machines. Then it
// comes back, must be fenced, and is revived.
func (s *soak) lose(ctx context.Context, h, other *host, kills bool) error {
	s.say("lose host %d", h.id)
	if err := s.network.cut(h.space.name); err != nil {
		return err
	}
	if kills {
		h.hold(true)
	}
	h.use.Lock() // whoever was answered was so before; nobody asks it any more
	defer h.use.Unlock()
	name := fmt.Sprint(h.id)
	err := s.insist(ctx, "declare dead", func(ctx context.Context) error {
		_, err := other.client.Hosts.DeclareHostDead(ctx, connect.NewRequest(&ip6dv1.DeclareHostDeadRequest{Host: name, Force: true}))
		return err
	})
	if err == nil {
		s.rules.setDead(h.id, true)
		err = s.insist(ctx, "adopt", func(ctx context.Context) error {
			_, err := other.client.Hosts.AdoptBlocks(ctx, connect.NewRequest(&ip6dv1.AdoptBlocksRequest{From: name, To: fmt.Sprint(other.id)}))
			return err
		})
	}
	if err == nil {
		s.claimFrom(ctx, h, other)
	}
	return errors.Join(err, s.bringBack(ctx, h, other))
}

// claimFrom claims some of the machines that were on a lost host. One that somebody wanted to destroy is left alone: whether it
// was destroyed nobody can tell.
func (s *soak) claimFrom(ctx context.Context, h, other *host) {
	for _, k := range s.history.on(h.id) {
		l := life{soak: s, ctx: ctx, client: 601, name: k.name}
		l.until(input{Kind: opClaim, Host: other.id, ID: k.id}, 3, done, failed)
	}
}

// bringBack has a lost host come back.
func (s *soak) bringBack(ctx context.Context, h, other *host) error {
	err := s.network.join(h.space.name)
	h.hold(false)
	if s.rules.isDead(h.id) {
		err = errors.Join(err, s.insist(ctx, "fence", func(context.Context) error {
			if !h.kernel.Snapshot().Fenced {
				return errors.New("it is not fenced")
			}
			return nil
		}))
		if err != nil && ctx.Err() == nil {
			s.rules.violate(ruleFence, "host %d: %v", h.id, err)
		}
		s.rules.setDead(h.id, false) // from here on what it delivers counts
	}
	for _, step := range []struct {
		what string
		try  func(context.Context) error
	}{
		{"revive", func(ctx context.Context) error {
			_, err := other.client.Hosts.ReviveHost(ctx, connect.NewRequest(&ip6dv1.ReviveHostRequest{Host: fmt.Sprint(h.id)}))
			return err
		}},
		{"take up", func(context.Context) error {
			if h.kernel.Snapshot().Fenced {
				return errors.New("it is still fenced")
			}
			return nil
		}},
		{"unfreeze", func(ctx context.Context) error {
			_, err := other.client.Hosts.UnfreezeBlocks(ctx, connect.NewRequest(&ip6dv1.UnfreezeBlocksRequest{Host: fmt.Sprint(other.id)}))
			return err
		}},
	} {
		err = errors.Join(err, s.insist(ctx, step.what, step.try))
	}
	return errors.Join(err, s.uncordon(ctx, h, other))
}

// pardon takes back all that the operator said of hosts, at the end.
func (s *soak) pardon(ctx context.Context) {
	other := func(h *host) *host { return s.hosts[int(h.id)%hosts] }
	for _, h := range s.hosts {
		s.must(s.insist(ctx, "pardon", func(ctx context.Context) error {
			if err := s.revive(ctx, h, other(h)); err != nil {
				return err
			}
			_, err := other(h).client.Hosts.UncordonHost(ctx, connect.NewRequest(&ip6dv1.UncordonHostRequest{Host: fmt.Sprint(h.id)}))
			return err
		}))
	}
}

// revive revives a host that is dead.
func (s *soak) revive(ctx context.Context, h, by *host) error {
	r, err := by.client.Hosts.GetHost(ctx, connect.NewRequest(&ip6dv1.GetHostRequest{Host: fmt.Sprint(h.id)}))
	if err != nil || r.Msg.Host.State != string(hwmap.Dead) {
		return err
	}
	_, err = by.client.Hosts.ReviveHost(ctx, connect.NewRequest(&ip6dv1.ReviveHostRequest{Host: fmt.Sprint(h.id)}))
	return err
}

// known is a machine as the operator knows it.
type known struct {
	name string
	id   addr.Machine
}

// maxClaims is how many machines of a lost host are claimed.
const maxClaims = 8

// on returns machines that were last said to be on a host, and that nobody wanted to destroy.
func (h *history) on(host addr.Host) []known {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []known
	for name, operations := range h.names {
		k, at := known{name: name}, addr.Host(0)
		doomed := false
		for _, o := range operations {
			in, out := o.Input.(input), o.Output.(output)
			doomed = doomed || in.Kind == opDestroy
			if out.ID != 0 {
				k.id, at = out.ID, in.Host
			}
		}
		if !doomed && at == host {
			all = append(all, k)
		}
	}
	slices.SortFunc(all, func(a, b known) int { return int(b.id) - int(a.id) })
	return all[:min(len(all), maxClaims)]
}
