package integration

import (
	"fmt"
	"testing"

	"connectrpc.com/connect"

	ip6dv1 "ip6d/api/ip6d/v1"
)

// A host is emptied by hand while its machines talk: cordoned, its machines moved away or destroyed, its blocks handed over; then removed.
func TestAHostIsEmptiedAndRemovedWhileItsMachinesTalk(t *testing.T) {
	f := newFleet(t, 3)
	red1, red2, blue1 := f.Machine("red1"), f.Machine("red2"), f.Machine("blue1")
	k := f.startTalk(red1, red2)
	k.flow()
	leaving, other := f.Host(1).Client().Hosts, f.Host(2).Client().Hosts
	_, err := other.CordonHost(f.ctx, connect.NewRequest(&ip6dv1.CordonHostRequest{Host: "1"}))
	f.must(err)
	f.eventually("host 1 has learned that it is cordoned", func() error {
		s, err := f.Host(1).Status(f.ctx)
		if err == nil && s.Host.State != "cordoned" {
			err = fmt.Errorf("it is %s", s.Host.State)
		}
		return err
	})
	_, err = f.Host(1).Client().Machines.CreateMachine(f.ctx, connect.NewRequest(&ip6dv1.CreateMachineRequest{Name: "new", Network: 1}))
	f.mustFail("create on a cordoned host", err, "cordoned")
	_, err = leaving.HandOverBlocks(f.ctx, connect.NewRequest(&ip6dv1.HandOverBlocksRequest{}))
	f.mustFail("hand over with machines that have never left", err, "red1", "blue1")
	remove := func() error {
		_, err := other.RemoveHost(f.ctx, connect.NewRequest(&ip6dv1.RemoveHostRequest{Host: "1"}))
		return err
	}
	f.mustFail("remove", remove(), "home of 1 blocks")

	_, err = f.Host(1).Client().Machines.DestroyMachine(f.ctx, connect.NewRequest(&ip6dv1.DestroyMachineRequest{Name: blue1.Name}))
	f.must(err, red1.Move(f.ctx, f.Host(2)))
	k.flow()
	handed, err := leaving.HandOverBlocks(f.ctx, connect.NewRequest(&ip6dv1.HandOverBlocksRequest{To: "3"}))
	f.must(err)
	if b := handed.Msg.Blocks; len(b) != 1 || b[0].Home != 3 {
		t.Errorf("handed over: %v", b)
	}
	k.flow()
	f.must(remove())
	f.eventually("host 1 has learned that it was removed", func() error {
		s, err := f.Host(1).Status(f.ctx)
		if err == nil && s.Following {
			err = fmt.Errorf("it follows the store")
		}
		return err
	})
	f.must(f.Host(1).KillDaemon())
	k.flow()
	f.must(red1.Move(f.ctx, f.Host(3))) // home, by now
	k.flow()
	k.end()
	f.must(red1.Ping(f.ctx, red2), red2.Ping(f.ctx, red1), red1.Ping(f.ctx, f.Machine("red3")))
}
