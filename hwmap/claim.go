package hwmap

import (
	"context"
	"errors"
	"fmt"

	"ip6d/addr"
)

// Claim makes this host the owner of a machine that a dead host owned. Name, network and address are the orchestrator's:
// what the store knows of the machine has to agree, and for one that never moved, of which it knows nothing, its block has
// to have been adopted from the dead host. That the host is dead is a condition of the transaction, and so are the records:
// of several hosts that claim a machine, one gets it.
//
// The machine is incoming first, durably; once the record names this host it is here. So a crash leaves neither without the
// other: what was begun is pursued, by this call repeated or without it, until the store has decided.
//
// Errors: ErrUsage, ErrNameTaken, ErrState, ErrStandalone, ErrFenced, ErrSuspect; ErrUnavailable and ErrInDoubt, after which it may be
// pursued: repeat it; those of Datapath and of the truth's store.
func (m *Map) Claim(ctx context.Context, name string, network addr.Network, s addr.Stable) (MachineView, error) {
	if err := checkName(name); err != nil {
		return MachineView{}, err
	}
	if m.standalone {
		return MachineView{}, fmt.Errorf("%w: there is no other host whose machines could be claimed", ErrStandalone)
	}
	if s.Kind() != addr.KindMachine || s.Network() != network || s.Cell() != m.Cell {
		return MachineView{}, fmt.Errorf("%w: %s is no address of a machine of network %d and cell %d", ErrUsage, s, network, m.Cell)
	}
	unlockName, err := m.naming.lock(ctx, name)
	if err != nil {
		return MachineView{}, err
	}
	defer unlockName()
	unlock, err := m.operations.lock(ctx, s.Machine())
	if err != nil {
		return MachineView{}, err
	}
	defer unlock()
	if err := m.mayChange(); err != nil {
		return MachineView{}, err
	}
	m.mu.Lock()
	holder, taken := m.byName[name]
	now, known := m.local[s.Machine()]
	m.mu.Unlock()
	if taken && holder != s.Machine() {
		return MachineView{}, fmt.Errorf("%w: host %d has another machine %q, with number %d", ErrNameTaken, m.Self.ID, name, holder)
	}
	if known && now.holdsName() && (now.Name != name || now.Network != network) {
		return MachineView{}, fmt.Errorf("%w: host %d has machine %d as %q of network %d", ErrState, m.Self.ID, s.Machine(), now.Name, now.Network)
	}
	if now.Silenced {
		return MachineView{}, m.silenced(now)
	}
	switch now.State {
	case Here: // repeated
		return m.view(now)
	case "", Free, Issued, Incoming, Away:
	default:
		return MachineView{}, m.wrongState(now, "begin a claim")
	}
	if err := m.claim(ctx, Local{Machine: s.Machine(), Name: name, Network: network}); err != nil {
		return MachineView{}, fmt.Errorf("claim %q: %w", name, err)
	}
	l, _ := m.lookup(s.Machine())
	return m.view(l)
}

// claim makes this host the owner of wanted, or says why not. The caller holds the machine's lock.
func (m *Map) claim(ctx context.Context, wanted Local) error {
	for {
		now, _ := m.lookup(wanted.Machine)
		s, err := m.read(ctx, wanted.Machine)
		if err != nil {
			return err
		}
		if now.Claiming && s.arrived(m.Self.ID, now) {
			return m.arrive(ctx, now, *s.record)
		}
		g, err := m.claimGrounds(ctx, wanted, s)
		if err == nil && now.Epoch > g.epoch {
			err = fmt.Errorf("%w: host %d knows machine %d at epoch %d, the store at epoch %d", ErrState, m.Self.ID, wanted.Machine, now.Epoch, g.epoch)
		}
		if now.Claiming && errors.Is(err, ErrState) {
			// What an earlier transaction was conditional on has changed, and revisions never return: it cannot win any more.
			return errors.Join(err, m.giveUpClaim(ctx, now, s))
		}
		if err != nil {
			return err
		}
		l := Local{Machine: wanted.Machine, Name: wanted.Name, Network: wanted.Network, Epoch: g.epoch, State: Incoming, Claiming: true, Peer: g.owner}
		if now.State == Incoming || now.State == Away {
			l.Port = now.Port
		}
		if !now.Claiming || now.Epoch != l.Epoch || now.Peer != l.Peer {
			if err := m.record(ctx, l); err != nil {
				return err
			}
			m.unsettled.add(l.Machine) // should this go no further
		}
		if err := m.putEntry(l); err != nil {
			return err
		}
		next := m.owned(l)
		next.Epoch++
		_, err = m.Fleet.Commit(ctx, Txn{If: g.conditions, Then: []Write{{Key: s.key.Key, Value: encode(next)}}})
		switch {
		case errors.Is(err, ErrConflict): // see what changed
			continue
		case err != nil:
			return err
		}
		m.Logger.Warn("machine claimed from a dead host", "machine", l.Name, "host", g.owner, "epoch", next.Epoch)
		return m.arrive(ctx, l, next)
	}
}

// giveUpClaim ends a claim that cannot win any more. Where the record says that the machine comes here from its owner, it
// is expected as before the claim: a switchover that the owner sent before it died may still be committed.
func (m *Map) giveUpClaim(ctx context.Context, l Local, s stored) error {
	r := s.record
	if r == nil || r.MovingTo != m.Self.ID || r.Host != l.Peer || r.Destroyed {
		return m.withdraw(ctx, l)
	}
	e, _, err := m.Datapath.Machine(m.id(l.Machine))
	if err != nil {
		return err
	}
	// The entry has the claim's epoch, above that which the owner hands over: the entry goes before the truth has the lower one.
	if err := m.Datapath.DeleteMachine(e.ID, l.Epoch); err != nil {
		return err
	}
	l.Claiming, l.Epoch = false, r.Epoch
	if err := m.record(ctx, l); err != nil {
		return err
	}
	m.unsettled.add(l.Machine)
	return m.Datapath.PutMachine(m.natMachine(l, e.Port))
}

// pursueClaim goes on with a claim that did not come to its end.
func (m *Map) pursueClaim(ctx context.Context, l Local) error {
	err := m.claim(ctx, l)
	if now, _ := m.lookup(l.Machine); err != nil && !now.Claiming {
		m.Logger.Warn("claim given up", "machine", l.Name, "error", err)
		return nil
	}
	return err
}

// grounds are what a claim stands on.
type grounds struct {
	owner      addr.Host // who is dead
	epoch      uint64    // that the owner cannot have passed
	conditions []Condition
}

// claimGrounds reads who owns a machine of which the store says s, and checks that it can be claimed. Errors: ErrState, when
// it cannot; ErrUnavailable, errMalformed.
func (m *Map) claimGrounds(ctx context.Context, wanted Local, s stored) (g grounds, err error) {
	b, err := optional[Block](s.block)
	if err != nil {
		return g, err
	}
	if b == nil {
		return g, fmt.Errorf("%w: machine %d is of block %d, which is nobody's", ErrState, wanted.Machine, wanted.Machine.Block())
	}
	g.epoch, g.owner = b.EpochFloor, b.Home
	if b.AdoptedFrom != 0 {
		g.owner = b.AdoptedFrom
	}
	if r := s.record; r != nil {
		if r.Destroyed {
			return g, fmt.Errorf("%w: machine %q was destroyed on host %d", ErrState, r.Name, r.Host)
		}
		if r.Name != wanted.Name || r.Network != wanted.Network {
			return g, fmt.Errorf("%w: machine %d is %q of network %d, not %q of network %d", ErrState, r.Machine, r.Name, r.Network, wanted.Name, wanted.Network)
		}
		g.epoch, g.owner = max(g.epoch, r.Epoch), r.Host
	}
	self, err := m.readMember(s.self)
	if err != nil {
		return g, err
	}
	e, err := m.Fleet.Get(ctx, hostKey(g.owner))
	if err != nil {
		return g, err
	}
	owner, err := optional[Host](e[0])
	if err != nil {
		return g, err
	}
	switch {
	case owner == nil:
		return g, fmt.Errorf("%w: it belongs to host %d, which is no host of the fleet", ErrState, g.owner)
	case owner.State != Dead:
		return g, fmt.Errorf("%w: it belongs to host %d, which is %s; only a dead host's machines are claimed", ErrState, g.owner, owner.State)
	case b.Home == g.owner:
		return g, fmt.Errorf("%w: block %d is still host %d's, whose epochs are not known; `ip6d host adopt %d` first", ErrState, b.Block, g.owner, g.owner)
	case self.State != Joined:
		return g, refusedIn(self, "takes no machines")
	}
	g.conditions = []Condition{s.unchanged(), s.block.unchanged(), e[0].unchanged(), s.self.unchanged()}
	return g, nil
}
