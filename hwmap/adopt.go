package hwmap

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"ip6d/addr"
)

// The epochs that a dead host gave the ids of its blocks are not known: they are in its truth alone. So its blocks go to
// another home with a floor that none of them can have reached, and frozen: their machines may run there still, and can be
// claimed. Only an operator can say that they are gone, and have ids issued again.

// AdoptBlocks gives the blocks of a dead host to another one, which takes machines, and returns them. Any daemon can do it;
// after an error it can be repeated, and goes on where it was. Declaring a host dead is not enough for it: that is one
// transaction, which stops the host's packets at once, and this is one for each block. Errors: ErrUsage, ErrUnknownHost,
// ErrState, ErrStandalone, ErrUnavailable, ErrInDoubt.
func (m *Map) AdoptBlocks(ctx context.Context, from, to addr.Host) ([]addr.Block, error) {
	if m.standalone {
		return nil, fmt.Errorf("%w: there is no other host whose blocks could be adopted", ErrStandalone)
	}
	if from == to {
		return nil, fmt.Errorf("%w: host %d is to adopt its own blocks", ErrUsage, to)
	}
	var adopted []addr.Block
	for {
		loser, dead, err := m.readHost(ctx, from)
		if err != nil {
			return adopted, err
		}
		if dead.State != Dead {
			return adopted, refusedIn(dead, "keeps its blocks; only those of a dead host are adopted")
		}
		gainer, h, err := m.readHost(ctx, to)
		if err != nil {
			return adopted, err
		}
		if h.State != Joined {
			return adopted, refusedIn(h, "takes no blocks")
		}
		entries, _, err := m.Fleet.List(ctx, blocksPrefix)
		if err != nil {
			return adopted, fmt.Errorf("list blocks: %w", err)
		}
		again := false
		for _, e := range entries {
			b, err := decode[Block](e)
			if err != nil || b.Home != from {
				continue // a malformed record is left alone, and told of where it is applied
			}
			err = m.writeBlock(ctx, e, b.adopted(to), loser.unchanged(), gainer.unchanged())
			switch {
			case errors.Is(err, ErrConflict): // the block, or what was said of one of the hosts, changed: look again
				again = true
			case err != nil:
				return adopted, fmt.Errorf("adopt block %d: %w", b.Block, err)
			default:
				adopted = append(adopted, b.Block)
			}
		}
		if !again {
			slices.Sort(adopted)
			return adopted, nil
		}
	}
}

// adopted is a dead home's block as its new home has it.
func (b Block) adopted(to addr.Host) Block {
	if b.AdoptedFrom == 0 { // else nothing was issued from it since it was adopted before, and its machines are still that one's
		b.AdoptedFrom = b.Home
	}
	b.Home, b.Epoch, b.Frozen = to, b.Epoch+1, true
	b.EpochFloor += unknownFloor
	return b
}

// UnfreezeBlock lets ids be issued from an adopted block again, after a quarantine: an operator says that the machines of it
// which have no record are gone. They cannot be claimed any more, and the dead host gives them up should it come back. It
// reports whether the block was frozen. Errors: ErrState where there is no such block, ErrUnavailable, ErrInDoubt.
func (m *Map) UnfreezeBlock(ctx context.Context, number addr.Block) (frozen bool, err error) {
	for {
		e, err := m.Fleet.Get(ctx, blockKey(number))
		if err != nil {
			return false, fmt.Errorf("read the record of block %d: %w", number, err)
		}
		b, err := optional[Block](e[0])
		switch {
		case err != nil:
			return false, err
		case b == nil:
			return false, fmt.Errorf("%w: block %d is nobody's", ErrState, number)
		case !b.Frozen: // or repeated
			return false, nil
		}
		now := *b
		now.Frozen, now.AdoptedFrom = false, 0
		now.IssueAfter = m.Now().Add(m.Quarantine).UTC()
		err = m.writeBlock(ctx, e[0], now)
		switch {
		case errors.Is(err, ErrConflict):
			continue
		case err != nil:
			return false, fmt.Errorf("unfreeze block %d: %w", number, err)
		}
		m.Logger.Info("block unfrozen", "block", number, "host", b.Home)
		return true, nil
	}
}

// UnfreezeBlocks is UnfreezeBlock for all blocks of a home, and returns those that were frozen.
func (m *Map) UnfreezeBlocks(ctx context.Context, home addr.Host) ([]addr.Block, error) {
	entries, _, err := m.Fleet.List(ctx, blocksPrefix)
	if err != nil {
		return nil, fmt.Errorf("list blocks: %w", err)
	}
	var frozen []addr.Block
	for _, e := range entries {
		b, err := decode[Block](e)
		if err != nil || b.Home != home || !b.Frozen {
			continue
		}
		was, err := m.UnfreezeBlock(ctx, b.Block)
		if err != nil {
			return frozen, err
		}
		if was {
			frozen = append(frozen, b.Block)
		}
	}
	slices.Sort(frozen)
	return frozen, nil
}

// writeBlock makes b the record of a block, if that is still as it was read, and on more conditions. Errors: those of
// Store.Commit.
func (m *Map) writeBlock(ctx context.Context, e Entry, b Block, more ...Condition) error {
	_, err := m.Fleet.Commit(ctx, Txn{If: append(more, e.unchanged()), Then: []Write{{Key: e.Key, Value: encode(b)}}})
	return err
}
