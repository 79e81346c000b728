##! netseq's alerts without a socket: Zeek's Input framework follows a table that the sensor appends to.
##!
##! For any Zeek, with any cluster backend or none, on the sensor's own machine. It stands beside the rest of the package and
##! needs nothing of it but the notices.

@load base/frameworks/cluster
@load base/frameworks/input
@load ./notices

module NetSeq;

export {
	## The table, by netseq's setting ``zeek.input_file``.
	const input_file = "/var/lib/netseq/zeek-alerts.tsv" &redef;

	## Alerts older than this when Zeek starts were told of before, and are left out; 0 sec raises them all anew.
	const input_since: interval = 10min &redef;

	## How often Zeek looks whether the table was begun anew: after a rotation it is smaller than before.
	const input_look: interval = 10sec &redef;

	## A line of the table.
	type Line: record {
		ts: time;
		uid: string &optional;
		orig_h: addr &optional;
		orig_p: count;
		resp_h: addr &optional;
		resp_p: count;
		transport: string;
		signature: string;
		measure: string;
		sensor: string;
		msg: string;
		sub: string;
		score: double;
	};

	## Raised for each line of the table.
	##
	## description: the input stream.
	##
	## tpe: always a new line.
	##
	## l: the line.
	global line: event(description: Input::EventDescription, tpe: Input::Event,
	    l: NetSeq::Line);
}

global begun = 0;
global size_before = 0.0;
global told_before = double_to_time(0.0);

function transport_of(word: string): transport_proto
	{
	if ( word == "tcp" )
		return tcp;

	if ( word == "udp" )
		return udp;

	if ( word == "icmp" || word == "icmp6" )
		return icmp;

	return unknown_transport;
	}

# Each stream has a name of its own, because the one before may still be ending.
function follow()
	{
	begun += 1;
	Input::add_event(Input::EventDescription($source=input_file, $name=fmt(
	    "netseq-alerts-%d", begun), $reader=Input::READER_ASCII,
	    $mode=Input::STREAM, $fields=Line, $ev=NetSeq::line,
	    $want_record=T));
	}

# Zeek's reader keeps the file that it opened, so after a rotation it would wait for ever.
event look()
	{
	local size = file_size(input_file);

	if ( size >= 0.0 && size < size_before )
		{
		Input::remove(fmt("netseq-alerts-%d", begun));
		follow();
		}

	if ( size >= 0.0 )
		size_before = size;

	schedule input_look { look() };
	}

event zeek_init()
	{
	if ( Cluster::is_enabled() && Cluster::local_node_type() != Cluster::MANAGER )
		return;

	if ( input_since > 0sec )
		told_before = current_time() - input_since;

	follow();
	schedule input_look { look() };
	}

event NetSeq::line(description: Input::EventDescription, tpe: Input::Event,
    l: NetSeq::Line)
	{
	if ( l$ts < told_before )
		return;

	local a = Alert($ts=l$ts, $signature=l$signature, $sensor=l$sensor, $msg=l$msg,
	    $sub=l$sub, $score=l$score, $measure=l$measure);

	if ( l?$uid )
		a$uid = l$uid;

	if ( l?$orig_h && l?$resp_h )
		{
		local transport = transport_of(l$transport);
		a$id = conn_id($orig_h=l$orig_h, $orig_p=count_to_port(l$orig_p, transport),
		    $resp_h=l$resp_h, $resp_p=count_to_port(l$resp_p,
		    transport));
		}

	raise_notice(a);
	}
