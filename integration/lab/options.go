package lab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"ip6d/hwmap/etcd/etcdproc"
)

// DefaultName is the name of the lab that `ip6d lab` makes.
const DefaultName = "ip6d-lab"

// What Options.Underlay can be, in the words of the configuration.
const (
	UnderlayDevice    = "device"
	UnderlayWireGuard = "wireguard"
)

// MaxHosts is the most hosts that a lab has: more do not fit a computer, nor a picture of it.
const MaxHosts = 32

// Options are the settings of a Lab.
type Options struct {
	// Name is the prefix of the lab's namespaces and the directory below /run. Labs of different names do not touch each
	// other; none may be the beginning of another. Default: DefaultName.
	Name string

	// Hosts is the number of hosts, 1 to MaxHosts. Default: 3.
	Hosts int

	// Binary is the path of ip6d. Default: this program.
	Binary string

	// Etcd is the path of the etcd server. Default: etcd in the directory of Binary, else in PATH, else what
	// etcdproc.FindBinary finds.
	Etcd string

	// Underlay is what the hosts are connected by: UnderlayDevice (the default), a switch, or UnderlayWireGuard, a mesh
	// over that switch.
	Underlay string

	// Bare leaves out the machines.
	Bare bool

	// Say takes a line of what is being done, without newline. nil: nobody listens.
	Say func(line string)
}

// nameFormat keeps a name usable as that of files and namespaces.
var nameFormat = regexp.MustCompile(`^[a-z0-9](-?[a-z0-9]+)*$`)

// directory is where everything of the lab is.
func (o Options) directory() string { return filepath.Join("/run", o.Name) }

// namespace is the name of a namespace of the lab.
func (o Options) namespace(of string) string { return o.Name + "-" + of }

// fill checks the options and fills in the defaults.
func (o Options) fill() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if len(o.Name) > 32 || !nameFormat.MatchString(o.Name) {
		return o, fmt.Errorf("lab's name %q: must be at most 32 small letters, digits and single dashes", o.Name)
	}
	if o.Hosts == 0 {
		o.Hosts = 3
	}
	if o.Hosts < 1 || o.Hosts > MaxHosts {
		return o, fmt.Errorf("number of hosts %d: must be 1 to %d", o.Hosts, MaxHosts)
	}
	if o.Underlay == "" {
		o.Underlay = UnderlayDevice
	}
	if o.Underlay != UnderlayDevice && o.Underlay != UnderlayWireGuard {
		return o, fmt.Errorf("underlay %q: must be %s or %s", o.Underlay, UnderlayDevice, UnderlayWireGuard)
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	if err := o.findBinary(); err != nil {
		return o, err
	}
	return o, o.findEtcd()
}

func (o *Options) findBinary() (err error) {
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find ip6d: %w", err)
		}
	}
	if _, err := os.Stat(o.Binary); err != nil {
		return fmt.Errorf("%w: ip6d: %w; run make", ErrMissing, err)
	}
	return nil
}

func (o *Options) findEtcd() error {
	if o.Etcd != "" {
		if _, err := exec.LookPath(o.Etcd); err != nil {
			return fmt.Errorf("%w: etcd: %w; run make, and give the path of bin/etcd", ErrMissing, err)
		}
		return nil
	}
	beside := filepath.Join(filepath.Dir(o.Binary), "etcd")
	for _, find := range []func() (string, error){
		func() (string, error) { return exec.LookPath(beside) },
		func() (string, error) { return exec.LookPath("etcd") },
		etcdproc.FindBinary,
	} {
		if path, err := find(); err == nil {
			o.Etcd = path
			return nil
		}
	}
	return fmt.Errorf("%w: etcd is neither %s nor in PATH; run make, which builds bin/etcd, or give its path with --etcd", ErrMissing, beside)
}
