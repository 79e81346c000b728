/* The least that a program on libpcap can do with a capture: read every packet and count it. The bar for netseq's decoder. */
#include <pcap/pcap.h>
#include <stdio.h>

static unsigned long packets, bytes;

static void count(u_char *unused, const struct pcap_pkthdr *header, const u_char *frame)
{
    (void)unused;
    (void)frame;
    packets++;
    bytes += header->caplen;
}

int main(int argc, char **argv)
{
    char error[PCAP_ERRBUF_SIZE];
    pcap_t *capture = argc == 2 ? pcap_open_offline(argv[1], error) : NULL;
    if (capture == NULL) {
        fprintf(stderr, "%s\n", argc == 2 ? error : "usage: count FILE");
        return 2;
    }
    int end = pcap_loop(capture, -1, count, NULL);
    printf("{\"version\": \"%s\", \"packets\": %lu, \"bytes\": %lu}\n", pcap_lib_version(), packets, bytes);
    pcap_close(capture);
    return end < 0;
}
