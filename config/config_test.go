package config

import (
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ip6d/addr"
	"ip6d/certificate"
	"ip6d/nat"
)

// somewhere is a server with a host name and a machine id.
var somewhere = Surroundings{
	Hostname:  func() (string, error) { return "server-7", nil },
	MachineID: func() (string, error) { return "3d1219c7c4c5404aaa1f6d2a48adfda4", nil },
}

// zero is the configuration that means nothing was said.
var zero = Config{
	Host: 1, Name: "server-7", Identity: "3d1219c7c4c5404aaa1f6d2a48adfda4", Cell: 1, Plan: addr.DefaultPlan,
	StateDir: "/var/lib/ip6d", Socket: "/run/ip6d/ip6d.sock", BPFDir: "/sys/fs/bpf/ip6d",
	Cluster: "default", Sizes: nat.Sizes{Machines: 8192, Blocks: 16384, Hosts: 16384},
	Quarantine: time.Hour, Slow: 100 * time.Millisecond, Audit: 10 * time.Minute, LogLevel: slog.LevelInfo,
}

func diff(a, b Config) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b addr.Plan) bool { return a == b }),
		cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }))
}

func check(t *testing.T, text string) (Config, error) {
	t.Helper()
	f, err := Parse([]byte(text))
	if err != nil {
		return Config{}, err
	}
	return f.Check(somewhere)
}

func TestAnEmptyFileMeansTheDefaults(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "---\n", "host:\nstore: {}\nunderlay:\n"} {
		got, err := check(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if d := diff(zero, got); d != "" {
			t.Errorf("%q means something else (-want +got):\n%s", text, d)
		}
		if !got.Standalone() {
			t.Errorf("%q is not standalone", text)
		}
	}
}

func TestTheReferenceConfigurationIsTheDefaults(t *testing.T) {
	const path = "../packaging/ip6d.yaml"
	f, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Check(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(zero, got); d != "" {
		t.Errorf("%s means something else than the defaults (-want +got):\n%s", path, d)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range fields(reflect.TypeFor[File]()) {
		if !strings.Contains(string(text), field+":") {
			t.Errorf("%s does not describe the field %s", path, field)
		}
	}
}

// fields returns the YAML names of a type's fields, and of those in them.
func fields(t reflect.Type) []string {
	var names []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		names = append(names, name)
		if f.Type.Kind() == reflect.Struct {
			names = append(names, fields(f.Type)...)
		}
	}
	return names
}

func TestEveryFieldIsRead(t *testing.T) {
	got, err := check(t, `
host: 0x1001
name: host1
identity: lab-host1
cell: 7
prefixes: {stable: "fd01::/16", routing: "fd02::/16"}
state_dir: /tmp/h1
socket: /tmp/h1/ip6d.sock
bpf_dir: /tmp/h1/bpf
api: {address: "[fd00:6d::1]:6447", certificate: /etc/a.crt, key: /etc/a.key, client_ca: /etc/a-ca.crt}
underlay: {device: eth0, address: "fd00:6d::1", port: 7000, verify_mac: true}
store: {endpoints: ["https://[fd00:6d::ffff]:2379", "https://etcd2:2379/"], cluster: lab, ca: /etc/s-ca.crt, certificate: /etc/s.crt, key: /etc/s.key}
sizes: {machines: 10, blocks: 30, hosts: 40}
quarantine: 90s
database: {slow: 2s}
audit: 1h
metrics: "[::1]:9446"
log_level: debug
`)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := addr.NewPlan(netip.MustParsePrefix("fd01::/16"), netip.MustParsePrefix("fd02::/16"))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Host: 0x1001, Name: "host1", Identity: "lab-host1", Cell: 7, Plan: plan,
		StateDir: "/tmp/h1", Socket: "/tmp/h1/ip6d.sock", BPFDir: "/tmp/h1/bpf",
		UnderlayDevice: "eth0", UnderlayAddress: netip.MustParseAddrPort("[fd00:6d::1]:7000"), VerifyMAC: true,
		API:       netip.MustParseAddrPort("[fd00:6d::1]:6447"),
		APIFiles:  certificate.Paths{Certificate: "/etc/a.crt", Key: "/etc/a.key", Authorities: "/etc/a-ca.crt"},
		Endpoints: []string{"https://[fd00:6d::ffff]:2379", "https://etcd2:2379"}, Cluster: "lab",
		StoreFiles: certificate.Paths{Certificate: "/etc/s.crt", Key: "/etc/s.key", Authorities: "/etc/s-ca.crt"},
		Sizes:      nat.Sizes{Machines: 10, Blocks: 30, Hosts: 40},
		Metrics:    netip.MustParseAddrPort("[::1]:9446"),
		Quarantine: 90 * time.Second, Slow: 2 * time.Second, Audit: time.Hour, LogLevel: slog.LevelDebug,
	}
	if d := diff(want, got); d != "" {
		t.Errorf("read wrongly (-want +got):\n%s", d)
	}
}

func TestAWireGuardUnderlayHasItsAddressByTheHostsID(t *testing.T) {
	want := zero
	want.Host, want.UnderlayDevice, want.UnderlayMTU = 0x12345, "ip6dwg", 1420
	want.UnderlayAddress = netip.MustParseAddrPort("[fdab:1:2345::1]:6446")
	for _, c := range []struct {
		text   string
		change func(*Config)
	}{
		{"endpoint: '192.0.2.1:51820'", func(c *Config) { c.UnderlayEndpoint = netip.MustParseAddrPort("192.0.2.1:51820") }},
		{"endpoint: '[::ffff:192.0.2.1]:51820'", func(c *Config) { c.UnderlayEndpoint = netip.MustParseAddrPort("192.0.2.1:51820") }},
		{"endpoint: '[2001:db8::1]:7', device: wg9, port: 7000, mtu: 1380", func(c *Config) {
			c.UnderlayMTU = 1380
			c.UnderlayEndpoint, c.UnderlayDevice = netip.MustParseAddrPort("[2001:db8::1]:7"), "wg9"
			c.UnderlayAddress = netip.MustParseAddrPort("[fdab:1:2345::1]:7000")
		}},
	} {
		want := want
		c.change(&want)
		got, err := check(t, "host: 0x12345\nunderlay: {type: wireguard, "+c.text+"}")
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if d := diff(want, got); d != "" {
			t.Errorf("%s: read wrongly (-want +got):\n%s", c.text, d)
		}
	}
}

func TestAWrongValueIsNamedWithItsFieldAndWhatIsRight(t *testing.T) {
	const fleet = "host: 1\nunderlay: {device: eth0, address: 'fd00::1'}\n"
	for _, c := range []struct{ text, want string }{
		{"host: 0", `host "0": must be a number from 1 to 4294967295`},
		{"host: 4294967296", `host "4294967296": must be a number from 1 to 4294967295`},
		{"host: -1", `host "-1": must be a number`},
		{"host: one", `host "one": must be a number`},
		{"cell: 65535", `cell "65535": must be a number from 1 to 65534`},
		{"name: a b", `name "a b": must be`},
		{"name: 12", `name "12": is a number`},
		{"name: " + strings.Repeat("x", 256), `must be 1 to 255 bytes`},
		{"identity: a b", `identity "a b": must be`},
		{"prefixes: {stable: fdaa}", `prefixes.stable "fdaa": must be an IPv6 prefix`},
		{"prefixes: {stable: 'fdab::/16'}", `prefixes: invalid: stable and routing prefix are both fdab::/16`},
		{"prefixes: {routing: 'fdab::/17'}", `routing prefix fdab::/17: must be a /16`},
		{"state_dir: var", `state_dir "var": must be an absolute path`},
		{"socket: ip6d.sock", `socket "ip6d.sock": must be an absolute path`},
		{"socket: /" + strings.Repeat("x", 100), `has 101 bytes, must have at most 100`},
		{"bpf_dir: bpf", `bpf_dir "bpf": must be an absolute path`},
		{"underlay: {device: eth0}", `underlay.address "": must be this host's IPv6 address`},
		{"underlay: {address: 'fd00::1'}", `underlay.device "": must be the name of a network device`},
		{"underlay: {device: a/b, address: 'fd00::1'}", `underlay.device "a/b": must be`},
		{"underlay: {device: sixteen-letters-, address: 'fd00::1'}", `underlay.device "sixteen-letters-": must be`},
		{"underlay: {device: eth0, address: 192.0.2.1}", `underlay.address "192.0.2.1": must be this host's IPv6 address`},
		{"underlay: {device: eth0, address: 'fd00::1/64'}", `without its length`},
		{"underlay: {device: eth0, address: 'fe80::1'}", `neither loopback nor link-local`},
		{"underlay: {device: eth0, address: '::1'}", `neither loopback nor link-local`},
		{"underlay: {device: eth0, address: 'fdaa::1'}", `is in the stable prefix of the fleet`},
		{"host: 2\nunderlay: {device: eth0, address: 'fdab:0:1::1'}", `is in the routing prefix of the fleet`},
		{"underlay: {device: eth0, address: 'fd00::1', port: 65536}", `underlay.port "65536": must be a number from 1 to 65535`},
		{"underlay: {type: vxlan}", `underlay.type "vxlan": must be device or wireguard`},
		{"underlay: {device: eth0, address: 'fd00::1', endpoint: '192.0.2.1:51820'}", `underlay.endpoint "192.0.2.1:51820": is for underlay.type wireguard only`},
		{"underlay: {type: wireguard, endpoint: '192.0.2.1:51820', address: 'fd00::1'}", `underlay.address "fd00::1": with underlay.type wireguard`},
		{"underlay: {type: wireguard, endpoint: '192.0.2.1:51820', device: a/b}", `underlay.device "a/b": must be`},
		{"underlay: {type: wireguard, endpoint: '192.0.2.1:51820', mtu: 1279}", `underlay.mtu "1279": must be a number from 1280`},
		{"underlay: {device: eth0, address: 'fd00::1', mtu: 1400}", `underlay.mtu "1400": is for underlay.type wireguard only`},
		{"underlay: {type: wireguard}", `underlay.endpoint "": must be an address of this server and the UDP port`},
		{"underlay: {type: wireguard, endpoint: 'server1:51820'}", `underlay.endpoint "server1:51820": must be an address`},
		{"underlay: {type: wireguard, endpoint: '192.0.2.1:0'}", `underlay.endpoint "192.0.2.1:0": must be an address`},
		{"underlay: {type: wireguard, endpoint: '127.0.0.1:51820'}", `neither loopback nor link-local`},
		{"underlay: {type: wireguard, endpoint: '[fe80::1%eth0]:51820'}", `neither loopback nor link-local`},
		{"underlay: {type: wireguard, endpoint: '0.0.0.0:51820'}", `neither loopback nor link-local`},
		{"underlay: {type: wireguard, endpoint: '[fdab:0:1::1]:51820'}", `is in the routing prefix of the fleet`},
		{fleet + "store: {endpoints: [etcd]}", `store.endpoints[0] "etcd": must be the URL of an etcd member`},
		{fleet + "store: {endpoints: ['http://a:1', 'ftp://b:1']}", `store.endpoints[1] "ftp://b:1": must be the URL`},
		{fleet + "store: {endpoints: ['http://a']}", `store.endpoints[0] "http://a": must be the URL`},
		{fleet + "store: {endpoints: ['http://a:1', 'https://b:1']}", `store.endpoints "http://a:1 https://b:1": must be all https:// or all http://`},
		{fleet + "store: {endpoints: ['http://a:1'], ca: /ca}", `store.endpoints "http://a:1": must be https:// where`},
		{fleet + "store: {endpoints: ['https://a:1'], key: /key}", `store.certificate "": must be the path of this host's certificate`},
		{fleet + "store: {endpoints: ['https://a:1'], ca: ca.crt}", `store.ca "ca.crt": must be an absolute path`},
		{"api: {address: '[::1]:1'}", `api.client_ca "": must be the path of the certificates`},
		{"api: {certificate: /a, key: /b, client_ca: /c}", `api.address "": must be an address of this server and a port`},
		{"api: {address: '[::1]:0', certificate: a, key: /b, client_ca: /c}", `api.certificate "a": must be an absolute path`},
		{"store: {cluster: a/b}", `store.cluster "a/b": must be`},
		{"store: {endpoints: ['http://a:1']}", `host "": each host of a fleet needs a hardware id of its own`},
		{"host: 1\nstore: {endpoints: ['http://a:1']}", `underlay.device "": a host of a fleet needs the device`},
		{"underlay: {device: eth0, address: 'fd00::1', verify_mac: 2}", `underlay.verify_mac "2": must be true or false`},
		{"sizes: {blocks: 0}", `sizes.blocks "0": must be a number from 1 to 16777216`},
		{"sizes: {machines: 32769}", `sizes.machines "32769": must be a number from 1 to 32768`},
		{"sizes: {hosts: many}", `sizes.hosts "many": must be a number from 1 to 65535`},
		{"quarantine: 1", `quarantine "1": must be a duration above zero`},
		{"database: {slow: 0ms}", `database.slow "0ms": must be a duration above zero`},
		{"audit: 1ms", `audit "1ms": must be a duration of at least 1s, such as 10m, or 0 for none`},
		{"audit: -1h", `audit "-1h": must be a duration`},
		{"quarantine: 0s", `quarantine "0s": must be a duration above zero`},
		{"metrics: 9446", `metrics "9446": must be an address and a port`},
		{"metrics: '[::1]:0'", `metrics "[::1]:0": must be an address and a port`},
		{"log_level: loud", `log_level "loud": must be debug, info, warn or error`},
		{"\nhosts: 1", `line 2: unknown field hosts`},
		{"underlay:\n  speed: 1500", `line 2: unknown field speed`},
		{"host: [1]", `line 1: cannot unmarshal !!seq into string`},
		{"host: 1\nhost: 2", `line 2: mapping key "host" already defined at line 1`},
		{"host: 1\n---\nhost: 2", `there is more after the first document`},
		{"host: '1", `found unexpected end of stream`},
	} {
		_, err := check(t, c.text)
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %q, want ErrInvalid with %q", c.text, err, c.want)
		}
	}
}

func TestAllWrongValuesAreToldAtOnce(t *testing.T) {
	_, err := check(t, "host: 0\ncell: 0\nlog_level: loud\n")
	for _, field := range []string{"host", "cell", "log_level"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s is missing in the error %q", field, err)
		}
	}
}

func TestAServerWithoutNameOrMachineIDMustBeGivenThem(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		with Surroundings
		file File
		want string
	}{
		{Surroundings{func() (string, error) { return "", broken }, somewhere.MachineID}, File{}, "name"},
		{Surroundings{func() (string, error) { return "", nil }, somewhere.MachineID}, File{}, "name"},
		{Surroundings{somewhere.Hostname, func() (string, error) { return "", os.ErrNotExist }}, File{}, "identity"},
		{Surroundings{somewhere.Hostname, func() (string, error) { return "", nil }}, File{}, "identity"},
	} {
		if _, err := c.file.Check(c.with); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want ErrInvalid about %s", err, c.want)
		}
		given := File{Name: "host1", Identity: "one"}
		if got, err := given.Check(c.with); err != nil || got.Name != "host1" || got.Identity != "one" {
			t.Errorf("given both: %q, %q, %v", got.Name, got.Identity, err)
		}
	}
}

func TestAMissingFileIsToldByPath(t *testing.T) {
	path := t.TempDir() + "/none.yaml"
	if _, err := ReadFile(path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want ErrNotExist with %s", err, path)
	}
}

func FuzzNoTextPanics(f *testing.F) {
	for _, seed := range []string{"host: 1", "underlay: {device: eth0, address: 'fd00::1'}", "store: {endpoints: [x]}", "prefixes: {stable: ::/0}", "{", "- 1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		file, err := Parse([]byte(text))
		if err != nil {
			return
		}
		c, err := file.Check(somewhere)
		if err == nil && (c.Host == 0 || c.Cell.Check() != nil || c.Quarantine <= 0) {
			t.Errorf("%q gives %+v", text, c)
		}
	})
}
