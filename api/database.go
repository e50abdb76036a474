package api

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	ip6dv1 "ip6d/api/ip6d/v1"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/hwmap"
	"ip6d/hwmap/bolt"
)

// Database is one of a host's databases.
type Database struct {
	Name  string // of the file, without its directory
	Path  string
	Store *bolt.Store
	Slow  func() uint64 // how many operations were slow. nil: nobody counts
}

// databaseServer is the DatabaseService of some databases.
type databaseServer []Database

// NewDatabaseService answers for the databases in this process, as a daemon does.
func NewDatabaseService(databases ...Database) ip6dv1connect.DatabaseServiceHandler {
	return databaseServer(databases)
}

func (s databaseServer) GetDatabaseStats(ctx context.Context, r *connect.Request[ip6dv1.GetDatabaseStatsRequest]) (*connect.Response[ip6dv1.GetDatabaseStatsResponse], error) {
	all := &ip6dv1.GetDatabaseStatsResponse{}
	err := s.each(r.Msg.Database, func(d Database) error {
		stats, err := d.Store.Stats(ctx)
		if err == nil {
			all.Databases = append(all.Databases, d.stats(stats))
		}
		return err
	})
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(all), nil
}

func (s databaseServer) CheckDatabase(ctx context.Context, r *connect.Request[ip6dv1.CheckDatabaseRequest]) (*connect.Response[ip6dv1.CheckDatabaseResponse], error) {
	all := &ip6dv1.CheckDatabaseResponse{}
	err := s.each(r.Msg.Database, func(d Database) error {
		c, err := d.Store.Check(ctx)
		check := &ip6dv1.DatabaseCheck{
			Database: d.Name, Path: d.Path, Torn: c.Torn, Pages: uint64(c.Pages), FreePages: uint64(c.FreePages),
			Records: uint64(c.Records), Revision: int64(c.Revision),
		}
		if errors.Is(err, hwmap.ErrCorrupt) {
			check.Problem, err = err.Error(), nil
		}
		all.Checks = append(all.Checks, check)
		return err
	})
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(all), nil
}

func (s databaseServer) CompactDatabase(ctx context.Context, r *connect.Request[ip6dv1.CompactDatabaseRequest]) (*connect.Response[ip6dv1.CompactDatabaseResponse], error) {
	all := &ip6dv1.CompactDatabaseResponse{}
	err := s.each(r.Msg.Database, func(d Database) error {
		c, err := d.Store.Compact(ctx)
		if err == nil {
			all.Compactions = append(all.Compactions, d.compaction(c))
		}
		return err
	})
	if err != nil {
		return nil, answer(err)
	}
	return connect.NewResponse(all), nil
}

// each calls f with the database of that name, or with all where the name is empty.
func (s databaseServer) each(name string, f func(Database) error) error {
	var names []string
	for _, d := range s {
		names = append(names, d.Name)
		if name != "" && name != d.Name {
			continue
		}
		if err := f(d); err != nil || name != "" {
			return err
		}
	}
	if name != "" {
		return fmt.Errorf("%w %q: there are %q", hwmap.ErrUnknownDatabase, name, names)
	}
	return nil
}

func (d Database) stats(s bolt.Stats) *ip6dv1.DatabaseStats {
	m := &ip6dv1.DatabaseStats{
		Database: d.Name, Path: d.Path, Size: uint64(s.Size), PageSize: uint32(s.PageSize), Pages: uint64(s.Pages),
		FreePages: uint64(s.FreePages), Records: make(map[string]uint64), Revision: int64(s.Revision), Commits: s.Commits, Writes: s.Writes,
	}
	for kind, n := range s.Records {
		m.Records[kind] = uint64(n)
	}
	if d.Slow != nil {
		m.Slow = d.Slow()
	}
	if !s.Compacted.At.IsZero() {
		m.Compacted = d.compaction(s.Compacted)
	}
	return m
}

func (d Database) compaction(c bolt.Compaction) *ip6dv1.Compaction {
	return &ip6dv1.Compaction{
		Database: d.Name, Time: timestamppb.New(c.At), Before: uint64(c.Before), After: uint64(c.After),
		Took: durationpb.New(c.Took), Pause: durationpb.New(c.Pause),
	}
}
