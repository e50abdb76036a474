package hwmap

import (
	"context"
	"fmt"
	"slices"
	"time"

	"ip6d/addr"
)

// The history is a log in the truth. An event is written in the transaction of what it is about, so the two cannot disagree,
// and under the next number, so it lies beside the one before.
//
// Transactions may be committed in another order than their events were numbered. So an event is read only once every one
// before it is decided: durable, or never going to be. Numbers that were not written, or are pruned, are passed over.

// What is kept. Pruning follows writing after a while, many events at once: a create does not pay for it.
const (
	historyPerMachine = 32                  // of each machine,
	historyWindow     = 4096                // and the latest of all, so that who watches may stay away for a while,
	historyAge        = 30 * 24 * time.Hour // if they are not older,
	historyMax        = 1 << 17             // nor more than these: of machines without end

	historyBatch = 256 // how many are read or pruned at once
)

// history knows which events there are; their content is in the truth alone. Map.mu guards it.
type history struct {
	floor   uint64          // the highest number that was pruned
	next    uint64          // the number of the next event
	decided uint64          // up to here, every event is durable or never will be
	durable uint64          // the last of these that is durable; later ones may get their numbers again
	after   map[uint64]fate // of the events after decided
	grown   chan struct{}   // closed when durable grows; nil while nobody waits

	oldest   uint64 // there is none below
	count    int
	machines map[addr.Machine][]uint64 // the latest of each machine, at most historyPerMachine
	surplus  []uint64                  // those that are not, and were not pruned yet
	names    map[string][]uint64
	requests map[requestKey]uint64 // the latest of each

	hosts   map[addr.Host]told      // what was told of each last
	noticed map[addr.Host]HostState // what is known of each
	news    []*Event                // of hosts, not written yet
}

// fate is what has become of an event.
type fate int

const (
	writing fate = iota
	written
	failed
)

// told is what the history says of a host.
type told struct {
	state HostState
	seq   uint64 // of the event; 0: of one before this daemon's start
}

func newHistory() history {
	return history{
		next:     1,
		after:    make(map[uint64]fate),
		machines: make(map[addr.Machine][]uint64),
		names:    make(map[string][]uint64),
		requests: make(map[requestKey]uint64),
		hosts:    make(map[addr.Host]told),
		noticed:  make(map[addr.Host]HostState),
	}
}

// begin numbers events that are about to be written, and returns what writes them.
func (h *history) begin(events []*Event) []Write {
	var writes []Write
	for _, e := range events {
		e.Seq = h.next
		h.next++
		h.after[e.Seq] = writing
		writes = append(writes, Write{Key: eventKey(e.Seq), Value: encode(e)})
	}
	return writes
}

// end takes in what became of the events whose writing began.
func (h *history) end(events []*Event, became fate) {
	for _, e := range events {
		h.after[e.Seq] = became
		if became == written {
			h.add(e)
		}
	}
	before := h.durable
	for {
		f, numbered := h.after[h.decided+1]
		if !numbered || f == writing {
			break
		}
		h.decided++
		delete(h.after, h.decided)
		if f == written {
			h.durable = h.decided
		}
	}
	if h.durable > before && h.grown != nil {
		close(h.grown)
		h.grown = nil
	}
}

func (h *history) add(e *Event) {
	h.count++
	if e.Kind == EventHost {
		return
	}
	of := insert(h.machines[e.Machine], e.Seq)
	if len(of) > historyPerMachine {
		h.surplus = append(h.surplus, of[0])
		of = slices.Delete(of, 0, 1)
	}
	h.machines[e.Machine] = of
	if e.Name != "" {
		h.names[e.Name] = insert(h.names[e.Name], e.Seq)
	}
	for _, r := range e.Requests {
		k := requestKey{e.Name, r.ID}
		h.requests[k] = max(h.requests[k], e.Seq)
	}
}

func (h *history) remove(e *Event) {
	h.count--
	drop(h.machines, e.Machine, e.Seq)
	drop(h.names, e.Name, e.Seq)
	for _, r := range e.Requests {
		if k := (requestKey{e.Name, r.ID}); h.requests[k] == e.Seq {
			delete(h.requests, k)
		}
	}
}

// insert adds n to a sorted list, almost always at its end.
func insert(list []uint64, n uint64) []uint64 {
	i, _ := slices.BinarySearch(list, n)
	return slices.Insert(list, i, n)
}

func drop[K comparable](lists map[K][]uint64, k K, n uint64) {
	i, found := slices.BinarySearch(lists[k], n)
	switch {
	case found && len(lists[k]) == 1:
		delete(lists, k)
	case found:
		lists[k] = slices.Delete(lists[k], i, i+1)
	}
}

// wantsPruning reports whether there is enough to prune for a transaction of its own.
func (h *history) wantsPruning() bool {
	return len(h.surplus) >= historyBatch && h.superfluous(h.surplus[historyBatch-1]) || h.count >= historyMax+historyBatch
}

// superfluous reports whether an event of the surplus is out of the window, too.
func (h *history) superfluous(n uint64) bool { return n+historyWindow <= h.decided }

// restoreHistory reads which events there are.
func (m *Map) restoreHistory(ctx context.Context) error {
	kept, err := m.Truth.Get(ctx, historyKey)
	if err != nil {
		return err
	}
	floor, err := optional[uint64](kept[0])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	entries, _, err := m.Truth.List(ctx, historyPrefix)
	if err != nil {
		return err
	}
	noted, _, err := m.Truth.List(ctx, notedPrefix)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h := &m.history
	if floor != nil {
		h.floor = *floor
	}
	h.oldest, h.decided = h.floor+1, h.floor
	for i, e := range entries {
		event, err := decodeEvent(e)
		if err != nil {
			m.Logger.Error("event left alone", "error", err) // the truth about machines does not depend on it
			continue
		}
		if i == 0 {
			h.oldest = event.Seq
		}
		h.add(event)
		h.decided = max(h.decided, event.Seq)
	}
	h.durable, h.next = h.decided, h.decided+1
	for _, e := range noted {
		host, err := e.Key.number(notedPrefix)
		if err == nil {
			state := HostState(e.Value)
			h.hosts[addr.Host(host)], h.noticed[addr.Host(host)] = told{state: state}, state
		}
	}
	return nil
}

func decodeEvent(e Entry) (*Event, error) {
	event, err := decode[Event](e)
	if err == nil {
		event.Seq, err = e.Key.seq()
	}
	return &event, err
}

// readEvents reads the events of these numbers that there are.
func (m *Map) readEvents(ctx context.Context, numbers []uint64) ([]*Event, error) {
	if len(numbers) == 0 {
		return nil, nil
	}
	keys := make([]Key, len(numbers))
	for i, n := range numbers {
		keys[i] = eventKey(n)
	}
	entries, err := m.Truth.Get(ctx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read the history: %w", err)
	}
	var events []*Event
	for _, e := range entries {
		if e.Value == nil {
			continue
		}
		event, err := decodeEvent(e)
		if err != nil {
			return nil, err
		}
		events = append(events, event)
	}
	return events, nil
}

// span is the numbers from first to last.
func span(first, last uint64) []uint64 {
	var numbers []uint64
	for n := first; n <= last; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

// History returns what happened on this host to machines of that name, the latest last. Errors: ErrUnknownMachine, ErrUnavailable.
func (m *Map) History(ctx context.Context, name string) ([]Event, error) {
	m.mu.Lock()
	numbers := slices.Clone(m.history.names[name])
	m.mu.Unlock()
	numbers = numbers[max(0, len(numbers)-historyPerMachine):]
	read, err := m.readEvents(ctx, numbers)
	if err != nil {
		return nil, err
	}
	if len(read) == 0 {
		if _, err := m.Machine(name); err != nil {
			return nil, err
		}
	}
	events := make([]Event, len(read))
	for i, e := range read {
		events[i] = *e
	}
	return events, nil
}
