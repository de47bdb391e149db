//! `anabranch stream`: events in (over HTTP, or from Kinesis), lists out.

use std::net::SocketAddr;
use std::sync::Arc;

use anabranch_server::{App, serve};
use anabranch_stores::ErrorKind;
use anabranch_stream::running::RunningStream;
use anabranch_stream::{Counts, LiveStream};
use rand::TryRng as _;

use crate::account::{Account, is_kinesis};
use crate::args::StreamArgs;
use crate::compose::Context;
use crate::failure::Failure;
use crate::remote::ServerFile;
use crate::ui::{grouped, print_line};

pub(crate) fn run(context: &Context, arguments: &StreamArgs) -> Result<(), Failure> {
    if is_kinesis(context) {
        return from_kinesis(context, arguments);
    }
    let listen = arguments.listen.as_deref().unwrap_or(&context.settings.server.listen);
    let state = context.state()?;
    let imported = context.warm(&state, &*context.lake()?)?;
    if imported > 0 {
        context.ui.say(format!("warm start: {} histories of the dataset joined", grouped(imported)));
    }
    let stream = Arc::new(context.start_stream(state, None, context.notify()?)?);
    let server = Server::start(context, Arc::clone(&stream) as Arc<dyn LiveStream>, listen)?;
    print_line(&format!("anabranch stream \"{}\" at {}", context.settings.stream.name, server.url))?;
    print_line(&format!(
        "  PUT    boto3.client(\"kinesis\", endpoint_url=\"{url}\").put_record(...), or POST {url}/events\n  \
         ASK    {url}/recommendations/USER   {url}/history/USER   {url}/status   {url}/metrics\n  \
         LISTS  {}/recommendations/{}",
        context.delivered_location(),
        stream.shared().namespace,
        url = server.url
    ))?;
    server.wait_for_signal(&*stream);
    server.stop();
    finish(context, stream)
}

/// This process's share of a Kinesis stream's shards, and answers about everybody.
fn from_kinesis(context: &Context, arguments: &StreamArgs) -> Result<(), Failure> {
    let listen = arguments.listen.as_deref().unwrap_or(&context.settings.server.listen);
    let account = Account::connect(context)?;
    if arguments.warm {
        let written = account.warm(context)?;
        context.ui.say(format!("warm start: {} histories of the dataset joined into the table", grouped(written)));
    }
    let fleet = Arc::new(account.start_fleet(context)?);
    let server = Server::start(context, Arc::clone(&fleet) as Arc<dyn LiveStream>, listen)?;
    print_line(&format!("anabranch stream: a worker of {} at {}", account.source(), server.url))?;
    print_line(&format!(
        "  ASK    {url}/recommendations/USER   {url}/history/USER   {url}/status   {url}/metrics\n  \
         LISTS  {}/recommendations/{}",
        context.delivered_location(),
        fleet.shared().namespace,
        url = server.url
    ))?;
    server.wait_for_signal(&*fleet);
    server.stop();
    let shared = Arc::clone(fleet.shared());
    let fleet = Arc::into_inner(fleet)
        .ok_or_else(|| Failure::of(ErrorKind::Bug, "somebody still uses the stream that should end"))?;
    let ended = fleet.stop();
    let totals = shared.totals();
    drop(shared);
    account.close();
    ended.map_err(|(why, kind)| {
        Failure::of(kind, format!("the stream stopped: {why}. Start it again: nothing in the stream is lost"))
    })?;
    say_totals(context, &totals);
    Ok(())
}

/// Commits what is open and ends the threads.
pub(crate) fn finish(context: &Context, stream: Arc<RunningStream>) -> Result<(), Failure> {
    if let Some((why, kind)) = stream.failure() {
        return Err(Failure::of(
            kind,
            format!("the stream stopped: {why}. Start it again: nothing acknowledged is lost"),
        ));
    }
    let totals = stream.shared().totals();
    let stream = Arc::into_inner(stream)
        .ok_or_else(|| Failure::of(ErrorKind::Bug, "somebody still uses the stream that should end"))?;
    stream.stop()?;
    say_totals(context, &totals);
    Ok(())
}

fn say_totals(context: &Context, totals: &Counts) {
    context.ui.say(format!(
        "stopped; accepted {} = delivered {} + superseded {} + duplicate {} + late {}; rejected {}",
        grouped(totals.accepted),
        grouped(totals.delivered),
        grouped(totals.superseded),
        grouped(totals.duplicate),
        grouped(totals.late),
        grouped(totals.rejected)
    ));
}

/// The HTTP server on its own runtime.
pub(crate) struct Server {
    pub(crate) url: String,
    state_folder: std::path::PathBuf,
    runtime: tokio::runtime::Runtime,
    shutdown: tokio::sync::watch::Sender<bool>,
    task: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) fn start(context: &Context, stream: Arc<dyn LiveStream>, listen: &str) -> Result<Self, Failure> {
        let unusable = |error: &dyn std::fmt::Display| {
            Failure::input(format!("cannot listen on {listen}: {error}; choose another with --listen"))
        };
        let address: SocketAddr = listen.parse().map_err(|e| unusable(&e))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("http")
            .build()
            .map_err(|e| Failure::of(ErrorKind::Retry, format!("starting the server's threads: {e}")))?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).map_err(|e| unusable(&e))?;
        let url = format!("http://{}", listener.local_addr().map_err(|e| unusable(&e))?);
        let mut token = [0_u8; 16];
        rand::rngs::SysRng
            .try_fill_bytes(&mut token)
            .map_err(|e| Failure::of(ErrorKind::Retry, format!("the system gives no random bytes: {e}")))?;
        let token = token.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let state_folder = context.server_folder();
        ServerFile { url: url.clone(), token: token.clone(), pid: std::process::id() }.write(&state_folder)?;
        let app = Arc::new(App::new(stream, &token));
        let (shutdown, mut told) = tokio::sync::watch::channel(false);
        let task = runtime.spawn(serve(listener, app, async move {
            drop(told.wait_for(|stop| *stop).await);
        }));
        Ok(Self { url, state_folder, runtime, shutdown, task })
    }

    /// Waits for SIGINT or SIGTERM, or for the stream to fail.
    pub(crate) fn wait_for_signal(&self, stream: &dyn LiveStream) {
        use tokio::signal::unix::{SignalKind, signal};
        self.runtime.block_on(async {
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                tracing::error!("signals cannot be caught; end this process with SIGKILL, nothing is lost");
                return std::future::pending().await;
            };
            let failed = async {
                while stream.failure().is_none() {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            };
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                () = failed => {}
            }
        });
    }

    /// Lets open requests end and gives the stream back.
    pub(crate) fn stop(self) {
        ServerFile::remove(&self.state_folder);
        let _ = self.shutdown.send(true);
        if let Ok(Err(error)) = self.runtime.block_on(self.task) {
            tracing::error!(%error, "the server ended with an error");
        }
        self.runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    }
}
