package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"ip6d/api"
	ip6dv1 "ip6d/api/ip6d/v1"
)

// named gives a command the flag that names its call.
func (c *cli) named(command *cobra.Command) *cobra.Command {
	command.Flags().StringVar(&c.requestID, "request-id", "", "names the call: repeated with the same id, it is answered as it was first and does nothing")
	return command
}

// eventAnswer is an event in the answers of `events` and `machine history`.
type eventAnswer struct {
	Time      time.Time `json:"time"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name,omitempty"`
	Network   uint32    `json:"network,omitempty"`
	Machine   *uint32   `json:"machine,omitempty"`
	Epoch     uint64    `json:"epoch,omitempty"`
	From      string    `json:"from,omitempty"`
	To        string    `json:"to,omitempty"`
	Peer      uint32    `json:"peer,omitempty"`
	Requests  []string  `json:"request_ids,omitempty"`
	Host      uint32    `json:"host,omitempty"`
	HostState string    `json:"host_state,omitempty"`
}

// watchedAnswer is a line of `events`.
type watchedAnswer struct {
	Event *eventAnswer `json:"event,omitempty"` // none: there is nothing more to tell, now
	Token string       `json:"token,omitempty"` // to go on from; none: the snapshot is not yet whole
}

func newEventAnswer(e *ip6dv1.Event) eventAnswer {
	a := eventAnswer{
		Time: e.Time.AsTime(), Kind: e.Kind, Name: e.Name, Network: e.Network, Epoch: e.Epoch, From: e.From, To: e.To, Peer: e.Peer,
		Requests: e.RequestIds, Host: e.Host, HostState: e.HostState,
	}
	if e.Host == 0 {
		a.Machine = &e.Machine
	}
	return a
}

// words are what an event says, for people.
func (a eventAnswer) words() []any {
	subject, became := a.Name, a.To
	switch {
	case a.Host != 0:
		subject, became = fmt.Sprintf("host %d", a.Host), a.HostState
	case a.Name == "":
		subject = fmt.Sprintf("machine id %d", *a.Machine)
	}
	other := ""
	if a.Peer != 0 {
		other = fmt.Sprintf("host %d", a.Peer)
	}
	return []any{a.Time.Local().Format("2006-01-02T15:04:05.000Z07:00"), a.Kind, subject, became, other, strings.Join(a.Requests, ",")}
}

func newMachineHistoryCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "history NAME",
		Short: "Show what happened to a machine on this host: its last events",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := call(cmd.Context(), c, func(a *api.Client) unary[ip6dv1.GetMachineHistoryRequest, ip6dv1.GetMachineHistoryResponse] {
				return a.Events.GetMachineHistory
			}, &ip6dv1.GetMachineHistoryRequest{Name: args[0]})
			if err != nil {
				return err
			}
			var events []eventAnswer
			for _, e := range r.Events {
				events = append(events, newEventAnswer(e))
			}
			return c.print(events, func(t *table) {
				t.row("TIME", "EVENT", "OF", "STATE", "PEER", "REQUESTS")
				for _, e := range events {
					t.row(e.words()...)
				}
			})
		},
	}
}

func newEventsCommand(c *cli) *cobra.Command {
	q := &ip6dv1.WatchEventsRequest{}
	command := &cobra.Command{
		Use:   "events [--after TOKEN | --snapshot] [--follow]",
		Short: "Show what happened to this host's machines, and to the fleet's hosts",
		Long: `Show what happened to this host's machines, and to the fleet's hosts, in the order in which it became durable.

With -o json, each line has a token: --after TOKEN goes on from there, with nothing left out or told twice. A token that is too
old is refused: begin anew, with --snapshot.`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringVar(&q.After, "after", "", "only what came after this token")
	flags.BoolVar(&q.Snapshot, "snapshot", false, "first the machines and hosts as they are now")
	flags.BoolVar(&q.Follow, "follow", false, "go on with what happens, until interrupted")
	command.MarkFlagsMutuallyExclusive("after", "snapshot")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		err := c.watchEvents(cmd.Context(), q)
		if errors.Is(cmd.Context().Err(), context.Canceled) {
			return nil // interrupted
		}
		return err
	}
	return command
}

func (c *cli) watchEvents(ctx context.Context, q *ip6dv1.WatchEventsRequest) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	stream, err := client.Events.WatchEvents(ctx, connect.NewRequest(q))
	if err != nil {
		return c.explain(err)
	}
	defer stream.Close()
	for stream.Receive() {
		if err := c.printWatched(stream.Msg()); err != nil {
			return err
		}
	}
	if err := stream.Err(); err != nil {
		return c.explain(err)
	}
	return nil
}

func (c *cli) printWatched(m *ip6dv1.WatchEventsResponse) error {
	a := watchedAnswer{Token: m.Token}
	if m.Event != nil {
		e := newEventAnswer(m.Event)
		a.Event = &e
	}
	if c.output == formatText && a.Event == nil {
		return nil
	}
	return c.print(a, func(t *table) { t.row(a.Event.words()...) })
}
