package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
)

// breaking is an EventService whose streams break off after a few events, once in the middle of a snapshot.
type breaking struct {
	ip6dv1connect.UnimplementedEventServiceHandler
	asked []string
	last  int
}

func (b *breaking) WatchEvents(_ context.Context, r *connect.Request[ip6dv1.WatchEventsRequest], stream *connect.ServerStream[ip6dv1.WatchEventsResponse]) error {
	b.asked = append(b.asked, fmt.Sprintf("%q %v", r.Msg.After, r.Msg.Snapshot))
	send := func(name, token string) error {
		return stream.Send(&ip6dv1.WatchEventsResponse{Event: &ip6dv1.Event{Name: name}, Token: token})
	}
	broken := connect.NewError(connect.CodeUnavailable, errors.New("killed"))
	if r.Msg.Snapshot {
		if err := send("present1", ""); err != nil || len(b.asked) == 1 {
			return errors.Join(err, broken)
		}
		return errors.Join(send("present2", ""), stream.Send(&ip6dv1.WatchEventsResponse{Token: "0"}))
	}
	n, err := strconv.Atoi(r.Msg.After)
	if err != nil {
		return connect.NewError(connect.CodeInvalidArgument, err)
	}
	if n == b.last {
		return connect.NewError(connect.CodeOutOfRange, errors.New("pruned"))
	}
	for i := range 2 {
		if err := send(fmt.Sprint("event", n+i+1), fmt.Sprint(n+i+1)); err != nil {
			return err
		}
	}
	if n%4 == 0 {
		return nil // stopped in order
	}
	return broken
}

func TestEventsAreFollowedAcrossStreamsThatBreak(t *testing.T) {
	b := &breaking{last: 6}
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewEventServiceHandler(b))
	server := httptest.NewServer(mux)
	defer server.Close()
	client := newClient(server.URL, &http.Transport{})
	defer client.Close()
	var told []string
	last := ""
	err := client.FollowEvents(t.Context(), FollowOptions{Snapshot: true}, func(events []*ip6dv1.Event, token string) error {
		var names []string
		for _, e := range events {
			names = append(names, e.Name)
		}
		told, last = append(told, strings.Join(names, "+")), token
		return nil
	})
	if connect.CodeOf(err) != connect.CodeOutOfRange {
		t.Errorf("a token that has expired: %v", err)
	}
	if want := []string{"present1+present2", "event1", "event2", "event3", "event4", "event5", "event6"}; !slices.Equal(told, want) || last != "6" {
		t.Errorf("told %q, and at last the token %s, want %q", told, last, want)
	}
	if want := []string{`"" true`, `"" true`, `"0" false`, `"2" false`, `"4" false`, `"6" false`}; !slices.Equal(b.asked, want) {
		t.Errorf("it asked %q, want %q", b.asked, want)
	}

	enough := errors.New("enough")
	if err := client.FollowEvents(t.Context(), FollowOptions{After: "2"}, func([]*ip6dv1.Event, string) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("what the caller said is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = client.FollowEvents(ctx, FollowOptions{After: "2"}, func([]*ip6dv1.Event, string) error {
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after the caller ended it: %v", err)
	}
}
