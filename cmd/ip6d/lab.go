package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"ip6d/integration/lab"
)

func newLabCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "lab",
		Short: "A throwaway fleet on this computer, to play with or to watch (root)",
		Long: `A throwaway fleet on this computer. Network namespaces are its hosts, each with an ip6d of its own, and its machines; one
etcd is its store. It touches nothing else, and leaves nothing behind.`,
	}
	command.AddCommand(newLabUpCommand(c), newLabDownCommand(c), newLabDemoCommand(c))
	return command
}

// labFlags are the flags of the commands that make a lab.
func labFlags(command *cobra.Command, o *lab.Options) {
	command.Flags().IntVar(&o.Hosts, "hosts", 3, fmt.Sprintf("number of hosts, at most %d", lab.MaxHosts))
	command.Flags().StringVar(&o.Etcd, "etcd", "", "path of the etcd server (default: beside ip6d, else in PATH)")
}

// checkHosts tells a wrong --hosts from a failure.
func checkHosts(o lab.Options, least int) error {
	if o.Hosts < least || o.Hosts > lab.MaxHosts {
		return usagef("--hosts %d: must be %d to %d", o.Hosts, least, lab.MaxHosts)
	}
	return nil
}

func newLabUpCommand(c *cli) *cobra.Command {
	var o lab.Options
	command := &cobra.Command{
		Use:   "up",
		Short: "Make a lab and leave it for playing with; one that is there is removed first",
		Args:  cobra.NoArgs,
	}
	labFlags(command, &o)
	command.Flags().StringVar(&o.Underlay, "underlay", lab.UnderlayDevice, "what connects the hosts: device, an Ethernet switch, or wireguard, a mesh over it")
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkHosts(o, 1); err != nil {
			return err
		}
		if o.Underlay != lab.UnderlayDevice && o.Underlay != lab.UnderlayWireGuard {
			return usagef("--underlay %s: must be %s or %s", o.Underlay, lab.UnderlayDevice, lab.UnderlayWireGuard)
		}
		o.Say = func(line string) { fmt.Fprintln(c.stderr, line) }
		l, err := lab.Up(cmd.Context(), o)
		if err != nil {
			return err
		}
		err = c.printLab(l)
		return errors.Join(err, l.Release())
	}
	return command
}

func newLabDownCommand(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "Remove the lab, also what is left of one after a crash",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := lab.Down(lab.DefaultName); err != nil {
				return err
			}
			return c.print(struct {
				Removed string `json:"removed"`
			}{lab.DefaultName}, func(t *table) { t.row("removed", lab.DefaultName) })
		},
	}
}

func newLabDemoCommand(c *cli) *cobra.Command {
	var o lab.DemoOptions
	command := &cobra.Command{
		Use:   "demo",
		Short: "Move a machine between three hosts while it talks, and count every packet",
		Long: `Move a machine between three hosts while it talks, and count every packet. It takes less than a minute; at the end, the
lab is removed. The exit status is 1 if a packet was lost, came twice, too early, too late, or where it should not be, or if
the TCP connection broke.

With -o json there is one JSON object, and the text goes to the standard error. In "refused" are numbers of packets that were
sent, and refused by the sender's host.`,
		Args: cobra.NoArgs,
	}
	labFlags(command, &o.Options)
	command.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkHosts(o.Options, lab.MinDemoHosts); err != nil {
			return err
		}
		o.Out = c.stdout
		if c.output == formatJSON {
			o.Out = c.stderr
		}
		report, err := lab.Demo(cmd.Context(), o)
		if report != nil && c.output == formatJSON {
			err = errors.Join(err, c.printJSON(report))
		}
		return err
	}
	return command
}

// labHost and labMachine are what `lab up` answers.
type labHost struct {
	Host      int    `json:"host"`
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
	Socket    string `json:"socket"`
	Log       string `json:"log"`
}

type labMachine struct {
	Name      string `json:"name"`
	Network   uint32 `json:"network"`
	Stable    string `json:"stable"`
	Host      int    `json:"host"`
	Namespace string `json:"namespace"`
}

func (c *cli) printLab(l *lab.Lab) error {
	var answer struct {
		Hosts    []labHost    `json:"hosts"`
		Machines []labMachine `json:"machines"`
	}
	for _, h := range l.Hosts() {
		answer.Hosts = append(answer.Hosts, labHost{h.Number, h.Name, h.Namespace(), h.Socket(), h.Log()})
	}
	for _, m := range l.Machines() {
		answer.Machines = append(answer.Machines, labMachine{m.Name, uint32(m.Network), m.Stable.String(), m.Host().Number, m.Namespace()})
	}
	if c.output == formatJSON {
		return c.printJSON(answer)
	}
	_, err := io.WriteString(c.stdout, howToPlay(l))
	return err
}

// howToPlay is for who has never seen a lab.
func howToPlay(l *lab.Lab) string {
	program, err := os.Executable()
	if err != nil {
		program = "ip6d"
	}
	first, last := l.Host(1), l.Host(len(l.Hosts()))
	from, to := l.Machine("red1"), l.Machine(fmt.Sprintf("red%d", last.Number))
	text := fmt.Sprintf(`
The lab is up. Each machine and each host is a network namespace, as "ip netns" shows. For example:

  ping between hosts:       ip netns exec %[1]s ping -c 3 %[2]s
  what the underlay sees:   ip netns exec %[3]s tcpdump -ni %[6]s ip6
  a host's machines:        %[4]s --socket %[5]s machine list
  its state:                %[4]s --socket %[5]s status
  what it refuses, live:    %[4]s --socket %[5]s monitor
  what an address says:     %[4]s addr decode %[2]s
`, from.Namespace(), to.Stable, first.Namespace(), program, first.Socket(), first.UnderlayDevice())
	if first != last {
		text += fmt.Sprintf(`
To move %[1]s from %[2]s to %[3]s by hand, as an orchestrator (ip6d) and a hypervisor (ip netns) would, while it is pinged:

  %[4]s --socket %[5]s migrate begin %[1]s --to %[3]s
  %[4]s --socket %[6]s machine attach %[1]s --netns /run/netns/%[7]s --guest-device eth1 --unconfigured
  ip netns exec %[7]s sh -c 'sysctl -qw net.ipv6.conf.eth1.disable_ipv6=0; ip link set eth1 up'
  %[4]s --socket %[5]s migrate switchover %[1]s
  ip netns exec %[7]s ip -6 route replace default via fe80::1 dev eth1 onlink
  %[4]s --socket %[5]s migrate finish %[1]s
`, from.Name, first.Name, last.Name, program, first.Socket(), last.Socket(), from.Namespace())
	}
	return text + fmt.Sprintf("\nTo remove all of it:  %s lab down\n", program)
}
