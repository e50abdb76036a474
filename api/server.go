package api

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"ip6d/addr"
	"ip6d/api/ip6d/v1/ip6dv1connect"
	"ip6d/audit"
	"ip6d/hwmap"
	"ip6d/nat"
)

// maxMessage bounds a request, in bytes. The largest that makes sense is far below it.
const maxMessage = 1 << 20

// HandlerOptions are what an orchestrator's API speaks for.
type HandlerOptions struct {
	Map       *hwmap.Map
	Version   string   // of this daemon
	Endpoints []string // of the fleet's store; none standalone

	Datapath Datapath
	Events   *nat.Feed // of what Datapath refuses

	Databases []Database // of this host

	// Firewall says which rules of the host's firewall stop what the datapath needs. nil: nobody looks.
	Firewall func() []string

	// Logger takes who called what; nil: nobody looks.
	Logger *slog.Logger

	// Audit compares the layers of this host. nil: AuditService is not offered.
	Audit *audit.Auditor

	// Trace says what the layers believe of a machine. Needed where Audit is.
	Trace func(context.Context, addr.ID) (audit.Trace, error)

	// FinishTimeout bounds a FinishMigration whose caller sets no deadline; 0: 30 s.
	FinishTimeout time.Duration
}

// Datapath is what the API tells about the kernel's side; nat.Datapath implements it.
type Datapath interface {
	Drops() ([]nat.Drop, error)
	EventsLost() (nat.EventsLost, error)
	Fill() []nat.Fill
}

// NewHandler serves MachineService, MigrationService, SuspectService, DatabaseService, EventService and HostService: what an orchestrator
// may do. Whoever reaches it may do all of it, so it belongs on a socket that only the orchestrator can open.
func NewHandler(o HandlerOptions) http.Handler {
	limit := connect.WithReadMaxBytes(maxMessage)
	if o.Logger != nil {
		limit = connect.WithOptions(limit, connect.WithInterceptors(callLog{o.Logger}))
	}
	named := connect.WithInterceptors(requestIDs())
	mux := http.NewServeMux()
	mux.Handle(ip6dv1connect.NewMachineServiceHandler(&machineServer{o.Map}, limit, named))
	mux.Handle(ip6dv1connect.NewMigrationServiceHandler(&migrationServer{o.Map, cmp.Or(o.FinishTimeout, 30*time.Second)}, limit, named))
	mux.Handle(ip6dv1connect.NewSuspectServiceHandler(&suspectServer{o.Map}, limit))
	mux.Handle(ip6dv1connect.NewDatabaseServiceHandler(NewDatabaseService(o.Databases...), limit))
	path, hosts := ip6dv1connect.NewHostServiceHandler(&hostServer{o}, limit)
	mux.Handle(path, hosts)
	mux.Handle(ip6dv1connect.HostServiceMonitorDropsProcedure, endWithContext(hosts))
	mux.Handle(ip6dv1connect.HostServiceDrainHostProcedure, endWithContext(hosts))
	path, events := ip6dv1connect.NewEventServiceHandler(&eventServer{o.Map}, limit)
	mux.Handle(path, events)
	mux.Handle(ip6dv1connect.EventServiceWatchEventsProcedure, endWithContext(events))
	if o.Audit != nil {
		mux.Handle(ip6dv1connect.NewAuditServiceHandler(&auditServer{o.Audit, &hostServer{o}}, connect.WithReadMaxBytes(maxReport)))
	}
	return withCertificate(mux)
}

// maxReport bounds a report that is to be repaired, in bytes: of some ten thousand differences.
const maxReport = 32 << 20

// lastWrite is how long a stream that ends may take to say so.
const lastWrite = time.Second

// endWithContext ends an answer soon after its request's context: whoever does not read what he is sent holds it up, and with
// it the end of the daemon.
func endWithContext(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		done := make(chan struct{})
		stop := context.AfterFunc(r.Context(), func() {
			defer close(done)
			// An error means that the connection has gone, and nothing holds it up.
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(lastWrite))
		})
		defer func() {
			if !stop() {
				<-done // with HTTP/2, w must not be used after this
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// NewServer returns a server of h for the listeners of a daemon. It speaks HTTP/1.1, and HTTP/2 with and without TLS, which
// gRPC needs. What it has to say about connections goes to log.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	s := &http.Server{
		Handler:           h,
		Protocols:         new(http.Protocols),
		ReadHeaderTimeout: 10 * time.Second, // or a caller that says nothing holds its connection for ever
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 16,
		ConnContext:       withConn,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetHTTP2(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	return s
}
