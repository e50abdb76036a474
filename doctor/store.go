package doctor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"ip6d/certificate"
	"ip6d/hwmap"
	"ip6d/hwmap/etcd"
)

const storePatience = 3 * time.Second

// store asks every member of the fleet's store by itself, and reads the fleet's hosts.
func (o Options) store(ctx context.Context) (all []Finding, hosts []hwmap.Host) {
	if o.Config.Standalone() {
		return []Finding{{Check: "store", Severity: OK, Value: "none: standalone"}}, nil
	}
	options := etcd.Options{Cluster: o.Config.Cluster, DialTimeout: storePatience, CallTimeout: storePatience}
	if strings.HasPrefix(o.Config.Endpoints[0], "https://") {
		files, err := certificate.Open(o.Config.StoreFiles, slog.New(slog.DiscardHandler))
		if err != nil {
			return []Finding{{"store certificate", Error, err.Error(), "correct store.ca, store.certificate and store.key"}}, nil
		}
		options.TLS = files.Client
	}
	ids := make(map[string]string) // an endpoint of each cluster
	for _, endpoint := range o.Config.Endpoints {
		options.Endpoints = []string{endpoint}
		found, id, here := o.member(ctx, options)
		all = append(all, found...)
		if id == "" {
			continue
		}
		if hosts == nil {
			hosts = here
		}
		ids[id] = endpoint
	}
	if len(ids) > 1 {
		all = append(all, Finding{"store", Error, fmt.Sprintf("the endpoints are of %d different etcd clusters: %v", len(ids), ids), "correct store.endpoints: all must be members of one cluster"})
	}
	if len(ids) == 0 {
		return all, nil
	}
	if hosts == nil {
		hosts = []hwmap.Host{} // there are none, which is known
	}
	return all, hosts
}

// member asks one endpoint. id is empty where it does not answer.
func (o Options) member(ctx context.Context, options etcd.Options) (all []Finding, id string, hosts []hwmap.Host) {
	check := "store " + options.Endpoints[0]
	s, err := etcd.Open(ctx, options)
	if err != nil {
		return []Finding{fromError(check, "", err)}, "", nil
	}
	defer s.Close()
	began := time.Now()
	version, err := s.Version(ctx)
	if err == nil {
		id, err = s.ID(ctx)
	}
	if err != nil {
		return []Finding{{check, Error, err.Error(), "check that it runs, that this host reaches it, and that store.ca, store.certificate and store.key are of it"}}, "", nil
	}
	all = []Finding{{Check: check, Severity: OK, Value: fmt.Sprintf("etcd %s answers within %s", version, time.Since(began).Round(time.Millisecond))}}
	settings := hwmap.Options{Plan: o.Config.Plan, Cell: o.Config.Cell, Self: hwmap.Host{ID: o.Config.Host}, Fleet: s}
	if err := settings.CheckMeta(ctx); err != nil {
		all = append(all, Finding{"store settings", Error, err.Error(), "correct prefixes, cell or host: they are those of the whole fleet"})
	}
	entries, _, err := s.List(ctx, "map/hosts/")
	if err != nil {
		return append(all, fromError(check, "", err)), id, nil
	}
	for _, e := range entries {
		var h hwmap.Host
		if err := json.Unmarshal(e.Value, &h); err != nil {
			all = append(all, Finding{"host record", Error, fmt.Sprintf("%s cannot be read: %v", e.Key, err), "start that host's daemon, which writes it anew"})
			continue
		}
		if h.ID == o.Config.Host && h.Identity != o.Config.Identity {
			all = append(all, Finding{"identity", Error, fmt.Sprintf("host id %d belongs to %q, with identity %q", h.ID, h.Name, h.Identity), "give this server a host id of its own"})
		}
		hosts = append(hosts, h)
	}
	return all, id, hosts
}
