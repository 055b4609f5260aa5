//! Connections: accepting them, bounding them, and ending them without losing a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use querywright_types::{Error, Result};

use crate::service::Service;

/// Bytes of a request's head.
const HEAD_BYTES: usize = 64 << 10;
/// How long to wait where the system refuses a connection.
const REFUSED: Duration = Duration::from_millis(50);

/// A service that listens.
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    listener: std::net::TcpListener,
    stop: Stop,
    stopped: watch::Receiver<bool>,
}

/// Tells a server to stop, from any thread.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// No more connections are accepted; requests under way are answered.
    pub fn stop(&self) {
        let _ = self.0.send(true);
    }
}

impl Server {
    /// Takes the service's address.
    ///
    /// # Errors
    /// [`Error::Argument`] when it cannot be had.
    pub fn bind(service: Service) -> Result<Self> {
        let address = service.config.listen;
        let listener = std::net::TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        let refused = |e| Error::argument("listen", format!("{address}: {e}"), "choose another address or port");
        let (sender, stopped) = watch::channel(false);
        Ok(Self {
            service: Arc::new(service),
            listener: listener.map_err(refused)?,
            stop: Stop(Arc::new(sender)),
            stopped,
        })
    }

    /// The address that it listens on: with the port that the system chose, where the configuration names port 0.
    ///
    /// # Errors
    /// [`Error::Argument`] when the system does not say.
    pub fn address(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|e| Error::argument("listen", e.to_string(), "choose another address"))
    }

    /// What it serves.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// What tells it to stop.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until it is told to stop, by [`Stop`], SIGTERM or SIGINT. It then accepts no more, answers what is under way
    /// within the time that the configuration allows for it, and returns.
    ///
    /// # Errors
    /// [`Error::Argument`] when the system gives no threads.
    pub fn run(self) -> Result<()> {
        let limits = &self.service.config.limits;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("querywright-serve")
            .max_blocking_threads(limits.concurrent + 8)
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| {
                Error::argument("serve", format!("the system refused threads: {e}"), "lower limits.concurrent")
            })?;
        let drain = Duration::from_millis(self.service.config.drain_ms);
        let served = runtime.block_on(self.accept());
        // What blocks beyond the time for it is left behind.
        runtime.shutdown_timeout(drain.min(Duration::from_secs(1)));
        served
    }

    async fn accept(self) -> Result<()> {
        let Self { service, listener, stop, mut stopped } = self;
        let listener = TcpListener::from_std(listener)
            .map_err(|e| Error::argument("listen", e.to_string(), "choose another address"))?;
        signals(stop.clone())?;
        let limits = &service.config.limits;
        let open = Arc::new(Semaphore::new(limits.connections));
        let router = service.router();
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(limits.read_ms))
            .max_buf_size(HEAD_BYTES);
        let graceful = GracefulShutdown::new();
        let mut refused = false;
        loop {
            let accepted = tokio::select! {
                accepted = next(&listener, &open) => accepted,
                _ = stopped.wait_for(|stop| *stop) => break,
            };
            let (stream, permit) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Once for many: too many files are open, say.
                    if !std::mem::replace(&mut refused, true) {
                        service.log(&format!("connections cannot be accepted: {error}"));
                    }
                    tokio::time::sleep(REFUSED).await;
                    continue;
                }
            };
            refused = false;
            let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                // A caller who breaks off is no concern of anybody's.
                let _ = connection.await;
                drop(permit);
            });
        }
        drop(listener);
        service.stop();
        let drain = Duration::from_millis(service.config.drain_ms);
        if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
            service.log(&format!("stopped with requests under way that took longer than {} ms", drain.as_millis()));
        }
        Ok(())
    }
}

/// The next connection, once one more may be open.
async fn next(
    listener: &TcpListener,
    open: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = open.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    let _ = stream.set_nodelay(true);
    Ok((stream, permit))
}

/// Stops at the first SIGTERM or SIGINT.
fn signals(stop: Stop) -> Result<()> {
    #[cfg(unix)]
    for kind in [tokio::signal::unix::SignalKind::terminate(), tokio::signal::unix::SignalKind::interrupt()] {
        let refused = |e: std::io::Error| Error::argument("serve", format!("no signals: {e}"), "run it elsewhere");
        let mut signal = tokio::signal::unix::signal(kind).map_err(refused)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            if signal.recv().await.is_some() {
                stop.stop();
            }
        });
    }
    #[cfg(not(unix))]
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.stop();
        }
    });
    Ok(())
}
