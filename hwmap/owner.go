package hwmap

import (
	"context"
	"fmt"
	"net/netip"

	"ip6d/addr"
)

// Owner says whose machines a truth holds. It is written into the truth at its first use, and never changes: under other
// settings its machines would be other machines, or somebody else's.
type Owner struct {
	Host    addr.Host    `json:"host"`
	Cell    addr.Cell    `json:"cell"`
	Stable  netip.Prefix `json:"stable"`
	Routing netip.Prefix `json:"routing"`
	Cluster string       `json:"cluster"` // the fleet's name in its store; empty: standalone
}

// ownerKey is the key of the truth's Owner.
const ownerKey Key = "owner"

// CheckOwner compares the truth with who wants to use it; known is false while it is new. Whoever replaces something in
// the kernel calls it first, because what runs there is the truth's owner's. Errors: ErrNotOwner, errMalformed.
func CheckOwner(ctx context.Context, truth Store, o Owner) (known bool, err error) {
	e, err := truth.Get(ctx, ownerKey)
	if err != nil || e[0].Value == nil {
		return false, err
	}
	owner, err := decode[Owner](e[0])
	if err != nil {
		return true, err
	}
	if owner != o {
		return true, fmt.Errorf("%w: it is of %s, the settings are of %s; correct the settings", ErrNotOwner, owner, o)
	}
	return true, nil
}

func (o Owner) String() string {
	where := "standalone"
	if o.Cluster != "" {
		where = fmt.Sprintf("cluster %q", o.Cluster)
	}
	return fmt.Sprintf("host %d, cell %d, prefixes %s and %s, %s", o.Host, o.Cell, o.Stable, o.Routing, where)
}

// Owner is who a Map with these options works for.
func (o Options) Owner() Owner {
	return Owner{Host: o.Self.ID, Cell: o.Cell, Stable: o.Plan.StablePrefix(), Routing: o.Plan.RoutingPrefix(), Cluster: o.Cluster}
}
