package hwmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"ip6d/addr"
)

// HandOver makes another host the home of every block of this one, which takes no machines any more: the given host, or 0
// for those that have the fewest blocks. It returns the blocks as they are then, also those that it came to before an error;
// repeated, it hands over what is left. The new home need not be up. It issues no id of the block before a quarantine has
// passed, and then above every epoch that an id of it has had.
//
// Errors: ErrState while this host takes machines, or has one of a block that nobody else could know of, or one that
// is migrating; ErrSuspect, ErrUsage, ErrUnknownHost, ErrStandalone, ErrConflict, ErrUnavailable and ErrInDoubt: repeat it after these.
func (m *Map) HandOver(ctx context.Context, to addr.Host) ([]Block, error) {
	if m.standalone {
		return nil, fmt.Errorf("%w: there is no other host to hand blocks over to", ErrStandalone)
	}
	if err := m.mayChange(); err != nil {
		return nil, err
	}
	if to == m.Self.ID {
		return nil, fmt.Errorf("%w: host %d is this host", ErrUsage, to)
	}
	homes, err := m.homes(ctx)
	if err != nil {
		return nil, err
	}
	var handed []Block
	var refused []error
	for _, block := range homes[m.Self.ID] {
		target := to
		if target == 0 {
			if target, err = m.fewestBlocks(ctx, homes); err != nil {
				return handed, err
			}
		}
		b, err := m.handOverBlock(ctx, block, target)
		switch {
		case errors.Is(err, ErrState): // the others may be free to go
			refused = append(refused, err)
		case err != nil:
			return handed, errors.Join(append(refused, err)...)
		default:
			handed = append(handed, b)
			homes[b.Home] = append(homes[b.Home], block)
		}
	}
	return handed, errors.Join(refused...)
}

// homes reads from the store which blocks each host is home of.
func (m *Map) homes(ctx context.Context) (map[addr.Host][]addr.Block, error) {
	entries, _, err := m.Fleet.List(ctx, blocksPrefix)
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	homes := make(map[addr.Host][]addr.Block)
	for _, e := range entries {
		b, err := decode[Block](e)
		if err != nil {
			m.Logger.Error("record left alone", "error", err)
			continue
		}
		homes[b.Home] = append(homes[b.Home], b.Block)
	}
	return homes, nil
}

// fewestBlocks returns the other joined host that is home of the fewest blocks; one that lives comes before one that does
// not. Errors: ErrState where there is none.
func (m *Map) fewestBlocks(ctx context.Context, homes map[addr.Host][]addr.Block) (addr.Host, error) {
	alive, _, err := m.Fleet.List(ctx, alivePrefix)
	if err != nil {
		return 0, fmt.Errorf("list hosts that live: %w", err)
	}
	lives := make(map[Key]bool)
	for _, e := range alive {
		lives[e.Key] = true
	}
	m.mu.Lock()
	var others []addr.Host
	for id, h := range m.fleet.hosts {
		if id != m.Self.ID && h.State == Joined {
			others = append(others, id)
		}
	}
	m.mu.Unlock()
	if len(others) == 0 {
		return 0, fmt.Errorf("%w: no other host of the fleet takes blocks; `ip6d host list` tells their states", ErrState)
	}
	return slices.MinFunc(others, func(a, b addr.Host) int {
		if lives[aliveKey(a)] != lives[aliveKey(b)] {
			if lives[aliveKey(a)] {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(len(homes[a]), len(homes[b])), cmp.Compare(a, b))
	}), nil
}

// handOverBlock hands one block over. Nothing is done with any of its ids meanwhile.
func (m *Map) handOverBlock(ctx context.Context, block addr.Block, to addr.Host) (Block, error) {
	unlock, err := m.lockBlock(ctx, block)
	if err != nil {
		return Block{}, err
	}
	defer unlock()
	e, err := m.Fleet.Get(ctx, blockKey(block), hostKey(m.Self.ID), hostKey(to))
	if err != nil {
		return Block{}, fmt.Errorf("hand over block %d: %w", block, err)
	}
	if err := m.maySendBlocks(e[1]); err != nil {
		return Block{}, err
	}
	if err := mayReceiveBlocks(to, e[2]); err != nil {
		return Block{}, err
	}
	if e[0].Value == nil {
		return Block{}, fmt.Errorf("%w: the record of block %d has gone from the store, and is being published again; repeat", ErrState, block)
	}
	b, err := decode[Block](e[0])
	if err != nil {
		return Block{}, err
	}
	if b.Home == m.Self.ID { // else an earlier call did it, whose answer was lost
		if b, err = m.handedOver(ctx, b, to); err != nil {
			return Block{}, err
		}
		// That both hosts' records are unchanged: this one issues nothing, also in future, without having heard of this;
		// and the other one is not on its way out of the fleet.
		e[0].Value = encode(b)
		e[0].ModRevision, err = m.Fleet.Commit(ctx, Txn{
			If:   []Condition{e[0].unchanged(), e[1].unchanged(), e[2].unchanged()},
			Then: []Write{{Key: e[0].Key, Value: e[0].Value}},
		})
		if err != nil {
			return Block{}, fmt.Errorf("hand over block %d to host %d: %w", block, to, err)
		}
		m.Logger.Info("block handed over", "block", block, "host", to)
	}
	// Before anything is erased here: what this host would do by the old record needs it.
	if err := m.applyWritten(ctx, e[:1]); err != nil {
		return b, err
	}
	return b, m.eraseLeft(ctx, block)
}

// maySendBlocks refuses to hand blocks over while this host, whose record e is, might issue ids of them.
func (m *Map) maySendBlocks(e Entry) error {
	h, err := m.readMember(e)
	if err != nil {
		return err
	}
	if h.State != Cordoned && h.State != Draining {
		return fmt.Errorf("%w: this host is %s; `ip6d host cordon %d` before its blocks are handed over", ErrState, h.State, m.Self.ID)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fleet.stateAt != e.ModRevision {
		return fmt.Errorf("%w: this host has not heard yet that it is %s; repeat", ErrUnavailable, h.State)
	}
	return nil
}

func mayReceiveBlocks(to addr.Host, e Entry) error {
	switch h, err := optional[Host](e); {
	case err != nil:
		return err
	case h == nil:
		return unknownHost(to)
	case h.State != Joined:
		return fmt.Errorf("%w: host %d is %s and takes no blocks", ErrState, to, h.State)
	}
	return nil
}

// handedOver is the record of a block of this host as it is to be. Errors: ErrState, where an id of it is in use and only
// this host knows, or its record is about to change. The caller holds the block's lock.
func (m *Map) handedOver(ctx context.Context, b Block, to addr.Host) (Block, error) {
	records, err := m.readBlock(ctx, b.Block)
	if err != nil {
		return Block{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var keeps []string
	for number := b.Block.First(); number < b.Block.First()+addr.BlockSize; number++ {
		l, known := m.local[number]
		r := records[number]
		b.EpochFloor = max(b.EpochFloor, l.Epoch)
		if r != nil {
			b.EpochFloor = max(b.EpochFloor, r.Epoch)
		}
		if why := m.keepsBlock(number, l, known, r); why != "" {
			keeps = append(keeps, why)
		}
	}
	if len(keeps) > 0 {
		return Block{}, fmt.Errorf("%w: block %d cannot be handed over: %s", ErrState, b.Block, firstOf(keeps))
	}
	b.Home, b.Epoch = to, b.Epoch+1
	if until := m.Now().Add(m.Quarantine); until.After(b.IssueAfter) {
		b.IssueAfter = until
	}
	return b, nil
}

// keepsBlock says why a machine keeps its block from being handed over: the new home knows what the records say, and
// nothing else. r is its record, l what this host knows. The caller holds mu.
func (m *Map) keepsBlock(number addr.Machine, l Local, known bool, r *Machine) string {
	switch l.State {
	case Here:
		switch {
		case r == nil:
			return fmt.Sprintf("machine %q is on this host, and has never left it", l.Name)
		case *r != m.owned(l):
			return fmt.Sprintf("the record of machine %q is about to change; repeat", l.Name)
		}
	case Leaving, Switching, Incoming:
		return fmt.Sprintf("machine %q is %s; end its migration first", l.Name, l.State)
	case Away:
		return fmt.Sprintf("machine %q is away; finish its migration first", l.Name)
	case Issued:
		if r == nil {
			return fmt.Sprintf("the record of machine %q has gone from the store, and its owner has not published it again yet; repeat", l.Name)
		}
	case Quarantined, Free:
		if r != nil && !r.Destroyed {
			return fmt.Sprintf("the record of machine %d, which was destroyed, is about to change; repeat", number)
		}
	}
	if !known && r == nil && m.allocator.InUse(number) {
		return fmt.Sprintf("it is not known whether machine %d was created; repeat, and restart the daemon if that does not help", number)
	}
	return ""
}

// firstOf joins the first few reasons.
func firstOf(reasons []string) string {
	const few = 5
	text := strings.Join(reasons[:min(few, len(reasons))], ", ")
	if more := len(reasons) - few; more > 0 {
		text += fmt.Sprintf(", and %d more", more)
	}
	return text
}

// readAtOnce is how many keys are read in one go: etcd takes 128.
const readAtOnce = 64

// readBlock reads the records of a block's machines from the store.
func (m *Map) readBlock(ctx context.Context, block addr.Block) (map[addr.Machine]*Machine, error) {
	records := make(map[addr.Machine]*Machine)
	for first := block.First(); first < block.First()+addr.BlockSize; first += readAtOnce {
		var keys []Key
		for number := first; number < first+readAtOnce; number++ {
			keys = append(keys, machineKey(number))
		}
		entries, err := m.Fleet.Get(ctx, keys...)
		if err != nil {
			return nil, fmt.Errorf("read the machines of block %d: %w", block, err)
		}
		for i, e := range entries {
			r, err := optional[Machine](e)
			if err != nil {
				return nil, err
			}
			if r != nil {
				records[first+addr.Machine(i)] = r
			}
		}
	}
	return records, nil
}

// lockBlock locks every machine of a block. Nobody else holds two of these locks at a time, but in this order.
func (m *Map) lockBlock(ctx context.Context, block addr.Block) (unlock func(), err error) {
	var held []func()
	unlock = func() {
		for _, release := range held {
			release()
		}
	}
	for number := block.First(); number < block.First()+addr.BlockSize; number++ {
		release, err := m.operations.lock(ctx, number)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, release)
	}
	return unlock, nil
}

// eraseLeft erases what only a block's home has to know of its machines. What was destroyed here, and the store has not heard of
// because this host was cut off, or dead, is told first: the new home goes by the records. The caller holds the block's lock.
func (m *Map) eraseLeft(ctx context.Context, block addr.Block) error {
	records, err := m.readBlock(ctx, block)
	if err != nil {
		return err
	}
	for number, r := range records {
		l, known := m.lookup(number)
		if known && (l.State == Quarantined || l.State == Free) && !r.Destroyed && m.disputed(l, r) == nil {
			if err := m.publishDestroyed(ctx, l); err != nil {
				return fmt.Errorf("tell that machine %d was destroyed: %w", number, err)
			}
		}
	}
	writes := []Write{{Key: homeKey(block)}}
	m.mu.Lock()
	var left []addr.Machine
	for number, l := range m.local {
		if number.Block() == block && l.isHomes() {
			left = append(left, number)
		}
	}
	m.mu.Unlock()
	for _, number := range left {
		writes = append(writes, Write{Key: localKey(number)})
	}
	return m.writeTruth(ctx, writes, func() {
		delete(m.complete, block)
		for _, number := range left {
			m.forget(number)
		}
	})
}
