package hwmap

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
)

// Call is what a request asks for.
type Call string

const (
	CallCreate     Call = "create"
	CallAttach     Call = "attach"
	CallDetach     Call = "detach"
	CallDestroy    Call = "destroy"
	CallBegin      Call = "begin"
	CallSwitchover Call = "switchover"
	CallFinish     Call = "finish"
	CallAbort      Call = "abort"
)

// Request is a call whose caller named it, so that a copy of it that comes late does nothing.
//
// An id is spent once its call has succeeded, and that is durable with what the call did. From then on the same call about
// the same machine's name is answered as it was first, whatever has become of the machine, as long as the history has it. A
// call that failed has not spent its id: repeated, it acts.
type Request struct {
	ID        string  `json:"id"`
	Call      Call    `json:"call"`
	Arguments string  `json:"arguments,omitempty"` // a sum of them
	Done      bool    `json:"done,omitempty"`      // the id is spent
	Outcome   Outcome `json:"outcome,omitempty"`   // of a switchover that is done
}

// requestKey names a request: another machine may have one of the same id.
type requestKey struct{ name, id string }

// maxRequestID is the length limit of a request's id, in bytes.
const maxRequestID = 64

type requestIDKey struct{}

// WithRequestID names the call that ctx is for; an empty id does not. Errors: ErrUsage.
func WithRequestID(ctx context.Context, id string) (context.Context, error) {
	for _, c := range []byte(id) {
		if c <= ' ' || c > '~' || len(id) > maxRequestID {
			return ctx, fmt.Errorf("%w: request id %.80q: must be 1 to %d bytes of printable ASCII without space", ErrUsage, id, maxRequestID)
		}
	}
	if id == "" {
		return ctx, nil
	}
	return context.WithValue(ctx, requestIDKey{}, id), nil
}

// ongoing is the call that a context is for.
type ongoing struct {
	Request      // without an id, where its caller did not name it
	of      *Map // the calls that it makes to other hosts are not it
}

type ongoingKey struct{}

// ongoing returns the call that ctx is for; the zero Request: none, but what goes on by itself.
func (m *Map) ongoing(ctx context.Context) Request {
	if o, _ := ctx.Value(ongoingKey{}).(*ongoing); o != nil && o.of == m {
		return o.Request
	}
	return Request{}
}

// result is what a call comes to.
type result struct {
	view    MachineView
	outcome Outcome // of a switchover
	epoch   uint64
}

// once makes a call about the machine of that name, unless its request was done before. Errors: ErrRequest, and those of do.
func (m *Map) once(ctx context.Context, call Call, name string, arguments any, do func(context.Context) (result, error)) (result, error) {
	id, _ := ctx.Value(requestIDKey{}).(string)
	o := &ongoing{Request{ID: id, Call: call}, m}
	ctx = context.WithValue(ctx, ongoingKey{}, o)
	if id == "" {
		return do(ctx)
	}
	sum := sha256.Sum256(encode(arguments))
	o.Arguments = hex.EncodeToString(sum[:8])
	k := requestKey{name, id}
	unlock, err := m.requesting.lock(ctx, k)
	if err != nil {
		return result{}, err
	}
	defer unlock()
	e, before, err := m.request(ctx, k)
	switch {
	case err != nil:
		return result{}, err
	case e != nil && (before.Call != call || before.Arguments != o.Arguments):
		return result{}, fmt.Errorf("%w: request id %q was given to a %s of machine %q before, perhaps with other arguments; give each call an id of its own", ErrRequest, id, before.Call, name)
	case before.Done:
		return m.answered(*e, before)
	}
	r, err := do(ctx)
	if err == nil && r.outcome != InDoubt {
		err = m.spend(ctx, k, o.Request, r.outcome)
	}
	return r, err
}

// request returns the latest event of a request, and what it says of it.
func (m *Map) request(ctx context.Context, k requestKey) (*Event, Request, error) {
	m.mu.Lock()
	number, known := m.history.requests[k]
	m.mu.Unlock()
	if !known {
		return nil, Request{}, nil
	}
	events, err := m.readEvents(ctx, []uint64{number})
	if err != nil || len(events) == 0 { // pruned just now
		return nil, Request{}, err
	}
	i := slices.IndexFunc(events[0].Requests, func(r Request) bool { return r.ID == k.id })
	return events[0], events[0].Requests[i], nil // it is there: the index was made of them
}

// answered is what a request came to, as its event tells.
func (m *Map) answered(e Event, r Request) (result, error) {
	v, err := m.view(Local{Machine: e.Machine, Name: e.Name, Network: e.Network, Epoch: e.Epoch, State: e.To, Peer: e.Peer, Port: e.Port})
	epoch := e.Epoch
	if r.Outcome == Committed {
		epoch++
	}
	return result{v, r.Outcome, epoch}, err
}

// spend makes durable that a request is done, where nothing that it did has: it found done what it asks for, or its end is
// not a change of the truth.
func (m *Map) spend(ctx context.Context, k requestKey, r Request, outcome Outcome) error {
	_, now, err := m.request(ctx, k)
	if err != nil || now.Done {
		return err
	}
	m.mu.Lock()
	number, here := m.byName[k.name]
	l := m.local[number]
	away, known := m.elsewhere(k.name)
	m.mu.Unlock()
	switch {
	case here:
	case known:
		l = remote(away)
	default:
		return nil // a machine that nobody knows: nothing can happen to it
	}
	r.Done, r.Outcome = true, outcome
	return m.writeTruth(ctx, nil, func() {}, &Event{
		Time: m.Now().UTC(), Kind: eventAnswered, Machine: l.Machine, Name: k.name, Network: l.Network, Epoch: l.Epoch,
		From: l.State, To: l.State, Peer: l.Peer, Port: l.Port, Requests: []Request{r},
	})
}

// does says which events are the end of a call.
func (c Call) does(kind EventKind) bool {
	switch c {
	case CallCreate:
		return kind == EventCreated
	case CallAttach:
		return kind == EventAttached
	case CallDetach:
		return kind == EventDetached
	case CallDestroy:
		return kind == EventDestroyed
	case CallBegin:
		return kind == EventAway
	case CallSwitchover:
		return kind == EventAway || kind == EventAborted
	case CallFinish:
		return kind == EventFinished
	case CallAbort:
		return kind == EventAborted || kind == EventWithdrawn
	}
	return false
}

// lasts reports whether a call can come to its end without its caller, by settling what it left. Its machine remembers it
// that long.
func (c Call) lasts(state LocalState) bool {
	switch state {
	case Leaving, Switching:
		return c == CallBegin || c == CallSwitchover
	case Destroying:
		return c == CallDestroy
	}
	return false
}

// requestsOf returns the requests that an event of that kind tells about, and those that l is to remember.
func (m *Map) requestsOf(ctx context.Context, before, l Local, kind EventKind) (told, kept []Request) {
	all, now := before.Requests, m.ongoing(ctx)
	if now.ID != "" {
		all = slices.DeleteFunc(slices.Clone(all), func(r Request) bool { return r.ID == now.ID })
		all = append(all, now)
	}
	for _, r := range all {
		// A begin that an abort ends is done, too: else a copy of it that comes late would begin again.
		r.Done = r.Call.does(kind) || r.Call == CallBegin && kind == EventAborted && now.Call == CallAbort
		switch {
		case r.Call != CallSwitchover || !r.Done:
		case kind == EventAborted:
			r.Outcome = Aborted
		default:
			r.Outcome = Committed
		}
		if !r.Done && r.Call.lasts(l.State) {
			kept = append(kept, r)
		}
		if r.Done || r.ID == now.ID {
			told = append(told, r)
		}
	}
	return told, kept
}

// viewOnce is once for calls that answer with a view.
func (m *Map) viewOnce(ctx context.Context, call Call, name string, arguments any, do func(context.Context) (MachineView, error)) (MachineView, error) {
	r, err := m.once(ctx, call, name, arguments, func(ctx context.Context) (r result, err error) {
		r.view, err = do(ctx)
		return r, err
	})
	return r.view, err
}

// doneOnce is once for calls that answer nothing.
func (m *Map) doneOnce(ctx context.Context, call Call, name string, do func(context.Context) error) error {
	_, err := m.once(ctx, call, name, nil, func(ctx context.Context) (result, error) { return result{}, do(ctx) })
	return err
}
