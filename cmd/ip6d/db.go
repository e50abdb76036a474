package main

import "github.com/spf13/cobra"

func newDBCommand(c *cli) *cobra.Command {
	command := &cobra.Command{
		Use:   "db",
		Short: "Care for this host's database",
	}
	command.AddCommand(newDBAcceptCommand(c))
	return command
}
