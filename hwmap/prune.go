package hwmap

import (
	"context"
	"slices"
	"time"
)

// keepHistory prunes the history, when there is enough to prune, and now and then.
func (m *Map) keepHistory(ctx context.Context) error {
	for {
		more, err := m.pruneHistory(ctx)
		wait := sweepPause
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			m.Logger.Warn("history not pruned, trying again", "error", err)
		case more:
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-m.pruneWanted:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// pruneHistory deletes a batch of what need not be kept, and reports whether there may be more.
func (m *Map) pruneHistory(ctx context.Context) (more bool, err error) {
	m.mu.Lock()
	h := &m.history
	surplus := 0
	for surplus < min(len(h.surplus), historyBatch) && h.superfluous(h.surplus[surplus]) {
		surplus++
	}
	superfluous := slices.Clone(h.surplus[:surplus])
	oldest := span(h.oldest, min(h.oldest+historyBatch-1, h.decided))
	tooMany := h.count - surplus - historyMax
	m.mu.Unlock()

	victims, err := m.readEvents(ctx, superfluous)
	if err != nil {
		return false, err
	}
	isVictim := make(map[uint64]bool)
	for _, e := range victims {
		isVictim[e.Seq] = true
	}
	if len(oldest) > 1 && tooMany <= 0 {
		// Mostly the oldest is kept, and says so of all after it: this is done every few seconds.
		first, err := m.readEvents(ctx, oldest[:1])
		if err != nil {
			return false, err
		}
		if len(first) == 1 && !isVictim[first[0].Seq] && m.Now().Sub(first[0].Time) < historyAge {
			oldest = oldest[:1]
		}
	}
	old, err := m.readEvents(ctx, oldest)
	if err != nil {
		return false, err
	}
	var kept uint64 // the oldest one
	for _, e := range old {
		if isVictim[e.Seq] {
			continue
		}
		if tooMany--; tooMany < 0 && m.Now().Sub(e.Time) < historyAge {
			kept = e.Seq
			break
		}
		victims = append(victims, e)
	}
	if err := m.deleteEvents(ctx, victims); err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h.surplus = h.surplus[surplus:]
	for _, e := range victims {
		h.remove(e)
	}
	switch {
	case kept != 0:
		h.oldest = kept
	case len(oldest) > 0:
		h.oldest = oldest[len(oldest)-1] + 1
	}
	return surplus == historyBatch || kept == 0 && len(oldest) == historyBatch, nil
}

func (m *Map) deleteEvents(ctx context.Context, events []*Event) error {
	if len(events) == 0 {
		return nil
	}
	m.mu.Lock()
	for _, e := range events {
		// First of all: who reads what is about to be deleted looks at this afterwards.
		m.history.floor = max(m.history.floor, e.Seq)
	}
	t := Txn{Then: []Write{{Key: historyKey, Value: encode(m.history.floor)}}}
	m.mu.Unlock()
	for _, e := range events {
		t.Then = append(t.Then, Write{Key: eventKey(e.Seq)})
	}
	_, err := m.Truth.Commit(context.WithoutCancel(ctx), t)
	return err
}
