# Hashes, regular expressions, sorting, long strings and forked children.
use strict;
use warnings;

my $state = 42;
sub number { $state = ($state * 1103515245 + 12345) % 2147483648; return int($state / 65536) % shift; }

my %count;
for (1 .. 60000) {
    my $word = join '', map { chr(97 + number(6)) } 1 .. 1 + number(5);
    $count{$word}++;
}
my @order = sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count;
print "words: ", scalar(@order), ", most frequent: @order[0 .. 9]\n";

my $text = join ' ', @order;
(my $marked = $text) =~ s/\b(\w)(\w*)\b/<$1>$2/g;
my $pairs = () = $text =~ /(\w)\1/g;
print "length: ", length $text, ", marked: ", length $marked, ", pairs: $pairs\n";

my @matrix = map { my $row = $_; [ map { $row * $_ } 1 .. 200 ] } 1 .. 200;
my $trace = 0;
$trace += $matrix[$_][$_] for 0 .. 199;
print "trace: $trace\n";

my $long = '';
$long .= 'x' x number(3000) for 1 .. 2000;
print "long: ", length $long, "\n";

for my $child (1 .. 4) {
    my $process = open(my $output, '-|') // die "fork: $!";
    if (!$process) {
        my %own = map { $_ => "$child" x $_ } 1 .. 500;
        print "child $child: ", length(join '', values %own), "\n";
        exit $child;
    }
    print while <$output>;
    close $output;
    print "exit code: ", $? >> 8, "\n";
}
