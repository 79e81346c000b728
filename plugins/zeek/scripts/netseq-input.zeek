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

	## What was written to the table longer ago than this when Zeek starts is taken for told, and left out; reporter.log
	## says how many alerts that were. More than Zeek was away leaves out none that it has not told of, and raises some
	## anew; 0 sec raises all that the table holds.
	const input_since: interval = 10min &redef;

	## How often Zeek looks whether the table was begun anew. It follows the new one after two looks, so that the rest of
	## the old one has been read.
	const input_look: interval = 5sec &redef;

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
		written: time;
		end: count;
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
global left_out = 0;

# When the last line was written that was told, or left out. Each is written later than the one before, in all tables.
global told = double_to_time(0.0);

# Where the last line that came ends in its file.
global read_to = 0.0;

# What was seen a look ago: how long the table was and how far it was read, whether it was shorter than that, and for which
# length it was followed anew.
global size_before = 0.0;
global read_before = 0.0;
global shorter = F;
global size_tried = -1.0;

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
	read_to = 0.0;
	Input::add_event(Input::EventDescription($source=input_file, $name=fmt(
	    "netseq-alerts-%d", begun), $reader=Input::READER_ASCII,
	    $mode=Input::STREAM, $fields=Line, $ev=NetSeq::line,
	    $want_record=T));
	}

# Zeek's reader keeps the file that it opened, so after a rotation it would wait for ever. It reads each second: when nothing
# comes of what the table held a look ago, that is in another file. A table whose rest cannot be read is tried once.
event look()
	{
	local size = file_size(input_file);

	if ( size >= 0.0 )
		{
		local stuck = size_before > read_to
		    && read_to == read_before
		    && size_before != size_tried;

		if ( shorter || stuck )
			{
			size_tried = size_before;
			Input::remove(fmt("netseq-alerts-%d", begun));
			follow();
			}

		shorter = size < read_to;
		size_before = size;
		read_before = read_to;
		}

	if ( left_out > 0 )
		{
		Reporter::info(fmt("netseq: %d alerts in %s were written more than %s before Zeek started and are left out (NetSeq::input_since)",
		    left_out, input_file, input_since));
		left_out = 0;
		}

	schedule input_look { look() };
	}

event zeek_init()
	{
	if ( Cluster::is_enabled() && Cluster::local_node_type() != Cluster::MANAGER )
		return;

	if ( input_since > 0sec )
		told = current_time() - input_since;

	follow();
	schedule input_look { look() };
	}

event NetSeq::line(description: Input::EventDescription, tpe: Input::Event,
    l: NetSeq::Line)
	{
	read_to = count_to_double(l$end);

	if ( l$written <= told )
		{
		# Afterwards, these are lines that came by the stream before.
		if ( begun == 1 )
			left_out += 1;

		return;
		}

	told = l$written;

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
